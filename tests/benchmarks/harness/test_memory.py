"""Memory of real processes."""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks.harness.memory import PeakMemory, resident_bytes

MEGABYTES = 200
SCRIPT = f"""
import subprocess, sys
if len(sys.argv) == 1:  # the parent: only its child takes memory, and gives it back
    child = subprocess.Popen([sys.executable, __file__, "child"])
    child.wait()
    print("done", flush=True)
    sys.stdin.read()
else:
    block = bytearray({MEGABYTES} * 2**20)
    block[::4096] = b"x" * len(block[::4096])
    import time; time.sleep(0.4)
"""


def test_a_peak_that_is_over_is_seen_and_children_count(tmp_path):
    script = tmp_path / "grows.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with PeakMemory(process.pid) as memory:
        assert process.stdout.readline().strip() == b"done"
    after = resident_bytes(process.pid)
    process.communicate()
    assert after < MEGABYTES * 2**20 < memory.peak < 2 * MEGABYTES * 2**20
    assert memory.samples > 5
    seen = memory.samples
    time.sleep(0.1)
    assert memory.samples == seen  # it samples no longer than the block
