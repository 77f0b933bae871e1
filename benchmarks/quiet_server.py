"""A server that answers nobody but its caller, so that times are those of the caller's requests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from server.embedded import EmbeddedServer


@contextmanager
def without_canaries(server: EmbeddedServer) -> Iterator[None]:
    """Suspend the launcher: Triton answers on, but is not supervised.

    The launcher sends a canary through every pipeline that nobody uses for a while, which costs as
    much as a frame, and would slow down whatever is timed beside the server. While it is suspended
    it does not see that this process was killed.
    """
    launcher = psutil.Process(server.pid)
    launcher.suspend()
    try:
        yield
    finally:
        launcher.resume()
