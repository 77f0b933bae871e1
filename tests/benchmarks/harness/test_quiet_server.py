"""A launcher that is suspended for a benchmark goes on, whatever becomes of the benchmark."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from benchmarks.harness.serving import paused_supervisor

BENCHMARK = """
import sys, time
from types import SimpleNamespace
from benchmarks.harness.serving import paused_supervisor
with paused_supervisor(SimpleNamespace(pid=int(sys.argv[1]))):
    print("suspended", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def launcher() -> Iterator[psutil.Popen]:
    """A process that is there to be suspended."""
    with psutil.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def stands_still(process: psutil.Popen, *, wanted: bool) -> bool:
    """Whether a process is suspended, once that is as ``wanted`` or 5 s are over."""
    deadline = time.monotonic() + 5
    while (still := process.status() == psutil.STATUS_STOPPED) != wanted:
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    return still


def test_the_launcher_stands_still_only_meanwhile(launcher):
    def benchmark():
        with paused_supervisor(launcher):
            assert stands_still(launcher, wanted=True)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        benchmark()
    assert not stands_still(launcher, wanted=False)


def test_a_killed_benchmark_leaves_no_suspended_launcher(launcher):
    command = [sys.executable, "-c", BENCHMARK, str(launcher.pid)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as benchmark:
        assert benchmark.stdout.readline() == "suspended\n"
        assert stands_still(launcher, wanted=True)
        benchmark.kill()
    assert not stands_still(launcher, wanted=False)
