"""Measures the memory of the server while it answers."""

from __future__ import annotations

import contextlib
import threading
from types import TracebackType

import psutil

INTERVAL = 0.02
"""Seconds between two samples. A sample costs some milliseconds per process, so take them more
rarely if you measure time as well."""


def family(pid: int) -> list[psutil.Process]:
    """Return a process and its descendants."""
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def resident_bytes(pid: int) -> int:
    """Return the bytes that belong to a process and its descendants; shared pages count once."""
    total = 0
    for process in family(pid):
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended after it was listed
            total += process.memory_full_info().pss
    return total


class PeakMemory:
    """Samples the memory of a process and its descendants in a thread while the block runs.

    ::

        with PeakMemory(server.pid) as memory:
            client.foreground(frame, "glioma_unet")
        print(memory.peak)
    """

    def __init__(self, pid: int, interval: float = INTERVAL) -> None:
        self.pid = pid
        self.interval = interval
        self.peak = 0
        """Maximum of the sampled `resident_bytes`."""
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
