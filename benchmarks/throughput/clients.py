"""Runs many callers at once, in one process or several, and measures the rate of their answers."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Protocol

from benchmarks.harness.load import LoadFrame, ask
from benchmarks.harness.serving import GRPC, TRANSPORTS
from cytoserve import Client

ANSWER_TIMEOUT_S = 120.0
"""Maximum seconds until every caller has its first answer."""

Ask = Callable[[int], object]
"""Function that sends the n-th frame of a caller and returns when it is answered."""


@dataclass(frozen=True)
class Exchange:
    """Times of one frame by `time.monotonic`, which all processes of a machine share."""

    sent: float
    answered: float


class Load(Protocol):
    """Callers that ask until `stop`."""

    pids: Sequence[int]
    """Processes that ask."""

    def start(self) -> None:
        """Begin to ask."""

    def wait_until_warm(self) -> None:
        """Return when every caller has had an answer or has failed."""

    def stop(self) -> list[Exchange]:
        """Let every caller wait for its last answer; return all exchanges, or raise an error."""


class Callers:
    """Threads of this process, each of which asks, waits for the answer, and asks again.

    Args:
        asks: one function per thread.
        in_step: whether threads wait for one another inside `asks`, frame by frame. They then all
            finish the same frame at the end.
    """

    def __init__(self, asks: Sequence[Ask], in_step: bool = False) -> None:
        self.pids: Sequence[int] = (os.getpid(),)
        self._asks = asks
        self._in_step = in_step
        self._lock = threading.Lock()
        self._stopped = False
        self._begun = 0
        """Maximum number of frames that a caller has begun."""
        self._exchanges: list[Exchange] = []
        self._errors: list[BaseException] = []
        self._warm = [threading.Event() for _ in asks]
        self._threads = [
            threading.Thread(target=self._repeat, args=(n,), daemon=True) for n in range(len(asks))
        ]

    def start(self) -> None:  # noqa: D102
        for thread in self._threads:
            thread.start()

    def wait_until_warm(self) -> None:  # noqa: D102
        deadline = time.monotonic() + ANSWER_TIMEOUT_S
        for event in self._warm:
            event.wait(max(0.0, deadline - time.monotonic()))

    def stop(self) -> list[Exchange]:  # noqa: D102
        with self._lock:
            self._stopped = True
        for thread in self._threads:
            thread.join()
        if self._errors:
            raise self._errors[0]
        return self._exchanges

    def _repeat(self, caller: int) -> None:
        frame = 0
        try:
            while self._goes_on(frame):
                sent = time.monotonic()
                self._asks[caller](frame)
                self._exchanges.append(Exchange(sent, time.monotonic()))
                self._warm[caller].set()
                frame += 1
        except BaseException as error:  # `stop` raises it again
            self._errors.append(error)
            self._warm[caller].set()

    def _goes_on(self, frame: int) -> bool:
        with self._lock:
            if self._stopped and not (self._in_step and frame < self._begun):
                return False
            self._begun = max(self._begun, frame + 1)
            return True


class ClientProcesses:
    """Processes that are started beforehand, each with its own client and frames.

    ::

        with ClientProcesses(url, "yolo", frames, 8) as clients:
            load = clients.load(processes=4, callers=2)
    """

    def __init__(self, url: str, pipeline: str, frames: Sequence[LoadFrame], count: int) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])  # imported once, for all of them
        self._pipes: list[Connection] = []
        self._processes = []
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_answer_commands, args=(theirs, url, pipeline, frames), daemon=True
            )
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def load(self, processes: int, callers: int, transport: str = GRPC) -> Load:
        """Return a load of processes, each with ``callers`` threads that share a client."""
        pids = [process.pid for process in self._processes[:processes] if process.pid is not None]
        return _RemoteCallers(self._pipes[:processes], pids, callers, transport)

    def close(self) -> None:
        """End all processes."""
        for pipe in self._pipes:
            pipe.close()  # which ends the process at the other end
        for process in self._processes:
            process.join()

    def __enter__(self) -> ClientProcesses:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class _RemoteCallers:
    """`Callers` in other processes, driven over their pipes."""

    def __init__(
        self, pipes: Sequence[Connection], pids: Sequence[int], callers: int, transport: str
    ) -> None:
        self.pids = pids
        self._pipes = pipes
        self._wanted = callers, transport

    def start(self) -> None:
        for pipe in self._pipes:
            pipe.send(self._wanted)

    def wait_until_warm(self) -> None:
        for pipe in self._pipes:
            pipe.recv()

    def stop(self) -> list[Exchange]:
        for pipe in self._pipes:
            pipe.send(None)
        answers = [pipe.recv() for pipe in self._pipes]
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return [exchange for answer in answers for exchange in answer]


def client_asks(clients: Sequence[Client], pipeline: str, frames: Sequence[LoadFrame]) -> list[Ask]:
    """Return a function per client that cycles through the frames, each from another start."""

    def ask_of(first: int, client: Client) -> Ask:
        return lambda n: ask(client, pipeline, frames[(first + n) % len(frames)])

    return [ask_of(first, client) for first, client in enumerate(clients)]


def _answer_commands(
    pipe: Connection, url: str, pipeline: str, frames: Sequence[LoadFrame]
) -> None:
    """Run `Callers` for each command (count, transport) of the pipe, until the pipe is closed."""
    with ExitStack() as stack:
        clients = {
            name: stack.enter_context(Client(transport=kind(url), timeout=ANSWER_TIMEOUT_S))
            for name, kind in TRANSPORTS.items()
        }
        while True:
            try:
                count, transport = pipe.recv()
            except EOFError:
                return
            callers = Callers(client_asks([clients[transport]] * count, pipeline, frames))
            callers.start()
            callers.wait_until_warm()
            pipe.send(None)
            pipe.recv()
            try:
                pipe.send(callers.stop())
            except Exception as error:
                pipe.send(RuntimeError(str(error)))


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
