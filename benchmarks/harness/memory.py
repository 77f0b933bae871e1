"""Memory of the server while it answers."""

from __future__ import annotations

import contextlib
import threading
from types import TracebackType

import psutil

INTERVAL = 0.02
"""Seconds between two samples. One costs some milliseconds a process: take them more rarely where
time is measured as well."""


def resident_bytes(pid: int) -> int:
    """Memory of a process and its descendants that is theirs alone, shared pages counted once."""
    root = psutil.Process(pid)
    total = 0
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):  # ended since it was listed
            total += process.memory_full_info().pss
    return total


class PeakMemory:
    """Samples a process and its descendants in a thread, as long as the block runs.

    ::

        with PeakMemory(server.pid) as memory:
            client.foreground(frame, "glioma_unet")
        print(memory.peak)
    """

    def __init__(self, pid: int, interval: float = INTERVAL) -> None:
        self.pid = pid
        self.interval = interval
        self.peak = 0
        """Most bytes seen, see `resident_bytes`."""
        self.samples = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        while True:
            self.peak = max(self.peak, resident_bytes(self.pid))
            self.samples += 1
            if self._ended.wait(self.interval):
                return

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
