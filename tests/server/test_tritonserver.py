"""How a server process ended, told from the process itself."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from server.tritonserver import TritonServer

EXIT_THREAD = {"x86_64": 60, "aarch64": 93}[os.uname().machine]
"""Linux's number of the system call that ends the calling thread alone."""


def leader_first(last_act: str) -> str:
    """A program whose first thread ends before its last one, a zombie until ``last_act``."""
    return f"""
import ctypes, os, threading, time
def last():
    time.sleep(0.5)
    {last_act}
threading.Thread(target=last).start()
ctypes.CDLL(None).syscall({EXIT_THREAD}, 0)
"""


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[[str], TritonServer]]:
    """Start a Python program as if it were the server; it is killed after the test."""
    servers: list[TritonServer] = []

    def start(program: str) -> TritonServer:
        server = TritonServer([sys.executable, "-c", program], os.environ, tmp_path / "log")
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.process.kill()
        server.reap()


@pytest.fixture
def end_of(
    wait_until: Callable[[Callable[[], bool], float], float],
) -> Callable[[TritonServer], str]:
    """Ask a server until it tells its end."""

    def ask(server: TritonServer) -> str:
        ends: list[str | None] = []

        def ended() -> bool:
            ends.append(server.end())
            return ends[-1] is not None

        wait_until(ended, 20)
        return str(ends[-1])

    return ask


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
            leader_first("os.abort()"),
            "was killed by SIGABRT",
            id="signal, first thread gone before the last",
        ),
        pytest.param(
            leader_first("os._exit(4)"),
            "exited with 4",
            id="exit code, first thread gone before the last",
        ),
    ],
)
def test_how_a_process_ended(
    program: str,
    told: str,
    started: Callable[[str], TritonServer],
    end_of: Callable[[TritonServer], str],
) -> None:
    assert end_of(started(program)) == told


def test_a_process_that_does_not_end_is_not_waited_for_long(
    started: Callable[[str], TritonServer],
    end_of: Callable[[TritonServer], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("server.tritonserver.LAST_THREADS_S", 0.2)
    server = started(leader_first("time.sleep(60)"))
    assert end_of(server) == "lost its first thread and has not ended within 0.2 s"
    assert server.process.poll() is None
