"""The limit that a server is held to: a client whose requests are answered in its own process.

::

    client = Client(transport=InProcess(Path("model_repository"), ["yolo_resnet"]))
    cells = client.segment(frame)

The request is encoded, the graphs are run in the ensemble's order, and the answer is decoded by the
code that does so with a server. What a server adds is the rest: the wire, and the steps' hops.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cytoserve.contract import PIPELINES
from cytoserve.errors import PipelineNotServed
from cytoserve.transport import Request, ServerInfo, Tensors
from export.graphs.files import open_session
from export.parity.chain import Arrays, Chain, newest_graph
from server.worker_environment import available_cores


class InProcess:
    """A transport for `cytoserve.Client` that runs ONNX graphs with ONNX Runtime.

    Args:
        repository: a model repository with exported models.
        pipelines: those to open.
        threads: threads per session; None takes as many as the server's have. (0 would let ONNX
            Runtime bind them to cores, which it does not do there.)
    """

    def __init__(
        self, repository: Path, pipelines: Sequence[str], threads: int | None = None
    ) -> None:
        threads = available_cores() if threads is None else threads
        self._chains = {name: Chain(repository, name, threads=threads) for name in pipelines}
        self._cards = {}
        for card in (PIPELINES[name].card for name in pipelines):
            file = newest_graph(repository / card)
            if file is None:
                raise PipelineNotServed(card)
            self._cards[card] = open_session(file, threads=1)

    def time_steps(
        self, pipeline: str, clock: Callable[[], float] = time.perf_counter
    ) -> Mapping[str, list[float]]:
        """From now on note the seconds of every run of each step of ``pipeline``, by step.

        With ``time.thread_time`` they are processor seconds, of sessions with one thread: it is
        the thread that asks.
        """
        sessions = self._chains[pipeline].sessions
        noted: dict[str, list[float]] = {step: [] for step in sessions}
        for step, session in sessions.items():
            sessions[step] = _TimedSession(session, noted[step], clock)
        return noted

    async def infer(self, request: Request, timeout: float) -> Tensors:
        """Run what the request's outputs depend on; there is no deadline."""
        inputs = dict(request.inputs)
        if request.model in self._cards:
            answers = self._cards[request.model].run(list(request.outputs), inputs)
            # ONNX Runtime gives text, the wire bytes.
            return {n: as_bytes(a) for n, a in zip(request.outputs, answers, strict=True)}
        if request.model not in self._chains:
            raise PipelineNotServed(request.model)
        return self._chains[request.model].run(inputs, request.outputs)

    async def is_ready(self, model: str, timeout: float) -> bool:
        """Whether ``model`` is a pipeline that was opened."""
        return model in self._chains

    async def execution(self, model: str, timeout: float) -> str:
        """Every graph is run as it is."""
        return ""

    async def server_info(self, timeout: float) -> ServerInfo:
        """Say that there is no server."""
        return ServerInfo("in process", "")

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

    async def close(self) -> None:
        """Nothing is held."""


class _TimedSession:
    """A session of ONNX Runtime that notes the seconds of its runs."""

    def __init__(self, session: Any, seconds: list[float], clock: Callable[[], float]) -> None:
        self._session = session
        self._seconds = seconds
        self._clock = clock

    def run(self, names: Sequence[str], feeds: Arrays) -> list[npt.NDArray[np.generic]]:
        begun = self._clock()
        answer: list[npt.NDArray[np.generic]] = self._session.run(names, feeds)
        self._seconds.append(self._clock() - begun)
        return answer


def as_bytes(texts: npt.NDArray[np.object_]) -> npt.NDArray[np.object_]:
    """An array of ``str`` as UTF-8."""
    encoded = [str(text).encode() for text in texts.flat]
    return np.array(encoded, dtype=np.object_).reshape(texts.shape)
