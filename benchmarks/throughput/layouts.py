"""Layouts that share a machine's cores among frames that this process answers."""

from __future__ import annotations

import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.harness.in_process import InProcess
from benchmarks.harness.load import LoadFrame
from benchmarks.throughput.clients import Callers, client_asks
from cytoserve import Client
from cytoserve.contract import STEPS

BATCHES = (2, 8)
"""Numbers of frames per batch that layouts try."""

ANSWER_TIMEOUT_S = 120.0
"""Maximum seconds for which the frames of a batch wait for one another; then one has failed."""

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Layout:
    """A layout of ``callers`` threads that each answer frame after frame."""

    chains: int
    """Number of sets of sessions, which are assigned to the callers one after the other."""
    threads: int
    """Number of threads per session."""
    callers: int
    batch: int = 1
    """Number of frames that a network step takes at once."""

    @property
    def name(self) -> str:
        """Description for a table."""
        chains = "1 set of sessions" if self.chains == 1 else f"{self.chains} sets of sessions"
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        frames = "1 frame" if self.callers == 1 else f"{self.callers} frames"
        together = f", networks in batches of {self.batch}" if self.batch > 1 else ""
        return f"{chains} of {threads}, {frames} at a time{together}"


def layouts(cores: int, *, batches: Sequence[int] = BATCHES) -> list[Layout]:
    """Return the layouts that are worth trying on ``cores`` cores."""
    halvings = [chains for chains in (2**n for n in range(cores.bit_length())) if chains <= cores]
    divided = [Layout(n, cores // n, callers=n) for n in halvings]
    shared = [Layout(1, cores, callers=cores)]
    batched = [Layout(1, cores, callers=batch, batch=batch) for batch in batches]
    return list(dict.fromkeys([*divided, *shared, *batched]))


class Opened:
    """A layout whose graphs are loaded.

    Args:
        repository: a model repository with exported models.
        pipeline: pipeline to open.
        layout: its layout.
        frames: frames that its callers send, all of one shape if the layout batches.
    """

    def __init__(
        self, repository: Path, pipeline: str, layout: Layout, frames: Sequence[LoadFrame]
    ) -> None:
        self.layout = layout
        self._pipeline = pipeline
        self._frames = frames
        transports = [_transport(repository, pipeline, layout) for _ in range(layout.chains)]
        clients = [Client(transport=transport) for transport in transports]
        self._clients = [clients[n % len(clients)] for n in range(layout.callers)]
        shared_runs = layout.threads > 1 or layout.batch > 1
        timed = () if shared_runs else transports
        self._noted = [transport.time_steps(pipeline, time.thread_time) for transport in timed]

    def callers(self) -> Callers:
        """Return threads that have not begun to ask yet."""
        asks = client_asks(self._clients, self._pipeline, self._frames)
        return Callers(asks, in_step=self.layout.batch > 1)

    def take_cpu_by_step(self) -> dict[str, float]:
        """Return the mean processor seconds of each step's runs since the last call.

        The result is empty if threads share a run, whose processor time cannot be separated then.
        """
        runs: dict[str, list[float]] = defaultdict(list)
        for noted in self._noted:
            for step, seconds in noted.items():
                runs[step] += seconds
                seconds.clear()
        return {step: statistics.fmean(seconds) for step, seconds in runs.items() if seconds}


class InStep(InProcess):
    """Transport of callers whose frames go through every network step as one batch.

    Exactly ``callers`` threads must ask at a time, frame by frame.
    """

    def __init__(self, repository: Path, pipeline: str, threads: int, callers: int) -> None:
        super().__init__(repository, [pipeline], threads)
        sessions = self._chains[pipeline].sessions
        for name in sessions:
            if STEPS[name].batches:
                sessions[name] = Meeting(sessions[name], callers)


class Meeting:
    """A session that waits for the inputs of all callers and runs them at once."""

    def __init__(self, session: Any, callers: int) -> None:
        self._session = session
        self._barrier = threading.Barrier(callers, self._run_together, timeout=ANSWER_TIMEOUT_S)
        self._asked: dict[int, tuple[Sequence[str], Arrays]] = {}
        self._answers: dict[int, list[npt.NDArray[Any]]] = {}

    def run(self, names: Sequence[str], feeds: Arrays) -> list[npt.NDArray[Any]]:
        """Answer as the session would, once all have asked; arrays have a leading batch dim."""
        caller = threading.get_ident()
        self._asked[caller] = names, feeds
        self._barrier.wait()
        return self._answers.pop(caller)

    def _run_together(self) -> None:
        asked, self._asked = self._asked, {}
        [names, first], *_ = asked.values()
        joined = {
            name: np.concatenate([feeds[name] for _, feeds in asked.values()]) for name in first
        }
        rows = [len(next(iter(feeds.values()))) for _, feeds in asked.values()]
        cuts = np.cumsum(rows)[:-1]
        split = [np.split(array, cuts) for array in self._session.run(list(names), joined)]
        for n, caller in enumerate(asked):
            self._answers[caller] = [pieces[n] for pieces in split]


def _transport(repository: Path, pipeline: str, layout: Layout) -> InProcess:
    if layout.batch > 1:
        return InStep(repository, pipeline, layout.threads, layout.callers)
    return InProcess(repository, [pipeline], layout.threads)
