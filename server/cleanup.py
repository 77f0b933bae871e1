"""Clean up after one run of the server: its processes, shared memory and folder.

The launcher calls `clean_up` when it ends. In case it is killed, it also starts this file as a
separate program, which waits until the launcher is gone for whatever reason:
``python cleanup.py RUN_ID FOLDER``, with the read end of the launcher's pipe as stdin.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

RUN_VARIABLE = "CYTOSERVE_RUN"
"""Environment variable that identifies every process of a run, even an orphaned worker."""

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Triton's workers make their segments

PRIVATE = 0o600
"""Mode of a file that only its user may read and write."""

KILL_TIMEOUT_S = 5.0
"""Maximum seconds that killed processes may take to vanish."""


def start_watcher(run_id: str, folder: Path) -> subprocess.Popen[bytes]:
    """Start the watcher of this process; it cleans up when the returned pipe closes."""
    return subprocess.Popen(
        [sys.executable, __file__, run_id, str(folder)],
        stdin=subprocess.PIPE,  # closed by the kernel when this process ends
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


def clean_up(run_id: str, folder: Path) -> None:
    """Kill what is left of the run and remove its shared memory and its folder."""
    kill_processes(run_id)
    sweep_shared_memory(run_id)
    shutil.rmtree(folder, ignore_errors=True)


def kill_processes(run_id: str) -> None:
    """Kill every process of the run and wait until none is left."""
    deadline = time.monotonic() + KILL_TIMEOUT_S
    while (pids := list(processes_of(run_id))) and time.monotonic() < deadline:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.02)


def processes_of(run_id: str) -> Iterator[int]:
    """Yield the pids of the run; a zombie has no environment and does not count."""
    marker = f"{RUN_VARIABLE}={run_id}".encode()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and marker in (entry / "environ").read_bytes().split(b"\0"):
                yield int(entry.name)
        except OSError:  # ended meanwhile, or another user's
            continue


def sweep_shared_memory(run_id: str) -> None:
    """Remove the segments that killed processes could not remove themselves."""
    for segment in SHARED_MEMORY.glob(f"{run_id}*"):
        segment.unlink(missing_ok=True)


def hide_shared_memory(run_id: str) -> None:
    """Let only this user read the segments, which hold the frames and answers of all callers.

    Triton's workers make them readable for everybody, whatever the umask is.
    """
    for segment in SHARED_MEMORY.glob(f"{run_id}*"):
        with contextlib.suppress(FileNotFoundError):  # its worker has ended meanwhile
            if stat.S_IMODE(segment.stat().st_mode) != PRIVATE:
                segment.chmod(PRIVATE)


def main() -> None:
    """Wait for the launcher's end, then clean up."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # ends after the launcher, never before
    sys.stdin.buffer.read()
    clean_up(sys.argv[1], Path(sys.argv[2]))


if __name__ == "__main__":
    main()
