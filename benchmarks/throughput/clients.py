"""Runs many callers at once, and measures the rate of their answers.

Callers ask a server, or graphs in this process in a `Layout` that shares the machine's cores.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.in_process import InProcess
from benchmarks.harness.load import LoadFrame, ask
from cytoserve import Client

ANSWER_TIMEOUT_S = 120.0
"""Maximum seconds until every caller has its first answer."""

Ask = Callable[[int], object]
"""Function that sends the n-th frame of a caller and returns when it is answered."""


@dataclass(frozen=True)
class Exchange:
    """Times of one frame by `time.monotonic`."""

    sent: float
    answered: float


class Callers:
    """Threads of this process, each of which asks, waits for the answer, and asks again.

    Args:
        asks: one function per thread.
    """

    def __init__(self, asks: Sequence[Ask]) -> None:
        self._asks = asks
        self._stopped = threading.Event()
        self._exchanges: list[Exchange] = []
        self._errors: list[BaseException] = []
        self._warm = [threading.Event() for _ in asks]
        self._threads = [
            threading.Thread(target=self._repeat, args=(n,), daemon=True) for n in range(len(asks))
        ]

    def start(self) -> None:
        """Begin to ask."""
        for thread in self._threads:
            thread.start()

    def wait_until_warm(self) -> None:
        """Return when every caller has had an answer or has failed."""
        deadline = time.monotonic() + ANSWER_TIMEOUT_S
        for event in self._warm:
            event.wait(max(0.0, deadline - time.monotonic()))

    def stop(self) -> list[Exchange]:
        """Let every caller wait for its last answer; return all exchanges, or raise an error."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        if self._errors:
            raise self._errors[0]
        return self._exchanges

    def _repeat(self, caller: int) -> None:
        frame = 0
        try:
            while not self._stopped.is_set():
                sent = time.monotonic()
                self._asks[caller](frame)
                self._exchanges.append(Exchange(sent, time.monotonic()))
                self._warm[caller].set()
                frame += 1
        except BaseException as error:  # `stop` raises it again
            self._errors.append(error)
            self._warm[caller].set()


def client_asks(clients: Sequence[Client], pipeline: str, frames: Sequence[LoadFrame]) -> list[Ask]:
    """Return a function per client that cycles through the frames, each from another start."""

    def ask_of(first: int, client: Client) -> Ask:
        return lambda n: ask(client, pipeline, frames[(first + n) % len(frames)])

    return [ask_of(first, client) for first, client in enumerate(clients)]


@dataclass(frozen=True)
class Layout:
    """A layout of ``callers`` threads that each answer frame after frame."""

    chains: int
    """Number of sets of sessions, which are assigned to the callers one after the other."""
    threads: int
    """Number of threads per session."""
    callers: int

    @property
    def name(self) -> str:
        """Description for a table."""
        chains = "1 set of sessions" if self.chains == 1 else f"{self.chains} sets of sessions"
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        frames = "1 frame" if self.callers == 1 else f"{self.callers} frames"
        return f"{chains} of {threads}, {frames} at a time"


def layouts(cores: int) -> list[Layout]:
    """Return the layouts that are worth trying on ``cores`` cores."""
    halvings = [chains for chains in (2**n for n in range(cores.bit_length())) if chains <= cores]
    divided = [Layout(n, cores // n, callers=n) for n in halvings]
    return list(dict.fromkeys([*divided, Layout(1, cores, callers=cores)]))


class Opened:
    """A layout whose graphs are loaded.

    Args:
        repository: a model repository with exported models.
        pipeline: pipeline to open.
        layout: its layout.
        frames: frames that its callers send.
    """

    def __init__(
        self, repository: Path, pipeline: str, layout: Layout, frames: Sequence[LoadFrame]
    ) -> None:
        self._pipeline = pipeline
        self._frames = frames
        clients = [
            Client(transport=InProcess(repository, [pipeline], layout.threads))
            for _ in range(layout.chains)
        ]
        self._clients = [clients[n % len(clients)] for n in range(layout.callers)]

    def callers(self) -> Callers:
        """Return threads that have not begun to ask yet."""
        return Callers(client_asks(self._clients, self._pipeline, self._frames))


def answered_per_second(exchanges: Sequence[Exchange], start: float, end: float) -> float:
    """Return the answers per second between two moments of `time.monotonic`.

    An exchange that is only partly inside counts by that part. Counting answers would be coarse: a
    batch is answered at once, and few batches end in a short time.
    """
    parts = (
        max(0.0, min(end, one.answered) - max(start, one.sent)) / (one.answered - one.sent)
        for one in exchanges
    )
    return sum(parts) / (end - start)
