"""A server that answers nobody but its caller, so that times are those of the caller's requests."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from server.embedded import EmbeddedServer


@contextmanager
def without_canaries(server: EmbeddedServer) -> Iterator[None]:
    """Suspend the launcher: Triton answers on, but is not supervised.

    The launcher sends a canary through every pipeline that nobody uses for a while, which costs as
    much as a frame, and would slow down whatever is timed beside the server. A process of its own
    resumes it when the block ends, or when this process is killed, and the launcher then sees that.
    """
    resume = subprocess.Popen(
        ["/bin/sh", "-c", f"read -r _; kill -CONT {server.pid}"],
        stdin=subprocess.PIPE,  # closed by the kernel when this process ends
        start_new_session=True,  # Ctrl-C in a terminal is not for it
    )
    assert resume.stdin is not None
    try:
        psutil.Process(server.pid).suspend()
        yield
    finally:
        resume.stdin.close()
        resume.wait()
