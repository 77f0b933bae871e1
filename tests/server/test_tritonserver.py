"""How a server process ended, told from the process itself."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from server.tritonserver import TritonServer

LEADER_FIRST = """
import ctypes, os, signal, threading, time
def last():
    time.sleep(0.5)
    {last_act}
threading.Thread(target=last).start()
ctypes.CDLL(None).syscall({exit_thread}, 0)
"""
"""A process whose first thread ends before the others: for half a second it is a zombie."""

EXIT_THREAD = {"x86_64": 60, "aarch64": 93}[os.uname().machine]
"""Linux's number of the system call that ends the calling thread alone."""


@pytest.mark.parametrize(
    ("program", "told"),
    [
        pytest.param("raise SystemExit(3)", "exited with 3", id="exit code"),
        pytest.param(
            "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
            "was killed by SIGKILL",
            id="signal",
        ),
        pytest.param(
            "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", "was stopped", id="stopped"
        ),
        pytest.param(
            LEADER_FIRST.format(last_act="os.abort()", exit_thread=EXIT_THREAD),
            "was killed by SIGABRT",
            id="signal, first thread gone before the last",
        ),
        pytest.param(
            LEADER_FIRST.format(last_act="os._exit(4)", exit_thread=EXIT_THREAD),
            "exited with 4",
            id="exit code, first thread gone before the last",
        ),
    ],
)
def test_how_a_process_ended(
    program: str,
    told: str,
    tmp_path: Path,
    wait_until: Callable[[Callable[[], bool], float], float],
) -> None:
    server = TritonServer([sys.executable, "-c", program], os.environ, tmp_path / "log")
    ends: list[str] = []

    def ended() -> bool:
        ends.extend(filter(None, [server.end()]))
        return bool(ends)

    try:
        wait_until(ended, 20)
    finally:
        server.process.kill()
        server.reap()
    assert ends == [told]


def test_a_process_that_does_not_end_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.tritonserver.LAST_THREADS", 0.2)
    program = LEADER_FIRST.format(last_act="time.sleep(60)", exit_thread=EXIT_THREAD)
    server = TritonServer([sys.executable, "-c", program], os.environ, tmp_path / "log")
    try:
        begun = time.monotonic()
        while not (end := server.end()) and time.monotonic() < begun + 20:
            time.sleep(0.02)
        assert end == "lost its first thread and has not ended within 0.2 s"
        assert server.process.poll() is None
    finally:
        os.kill(server.pid, signal.SIGKILL)
        server.reap()
