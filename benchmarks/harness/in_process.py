"""A client whose requests its own process answers: the limit that a server is compared with.

::

    client = Client(transport=InProcess(Path("model_repository"), ["yolo_resnet"]))
    cells = client.segment(frame)

The same code as with a server encodes the request and decodes the answer, and the graphs run in the
ensemble's order. A server adds the rest: the wire, and the hops between steps.
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
from server.installation import available_cores


class InProcess:
    """A transport for `cytoserve.Client` that runs ONNX graphs with ONNX Runtime.

    Args:
        repository: a model repository with exported models.
        pipelines: pipelines to open.
        threads: threads per session; None takes as many as the server's sessions have. 0 would let
            ONNX Runtime bind them to cores, which it does not do in the server.
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
        """Start to record the seconds of every run of each step of ``pipeline``, by step.

        With ``time.thread_time`` they are processor seconds of the calling thread, so sessions must
        have one thread.
        """
        sessions = self._chains[pipeline].sessions
        noted: dict[str, list[float]] = {step: [] for step in sessions}
        for step, session in sessions.items():
            sessions[step] = _TimedSession(session, noted[step], clock)
        return noted

    async def infer(self, request: Request, timeout: float) -> Tensors:
        """Run what the request's outputs depend on, without a deadline."""
        inputs = dict(request.inputs)
        if request.model in self._cards:
            answers = self._cards[request.model].run(list(request.outputs), inputs)
            # ONNX Runtime returns text, the wire has bytes.
            return {n: as_bytes(a) for n, a in zip(request.outputs, answers, strict=True)}
        if request.model not in self._chains:
            raise PipelineNotServed(request.model)
        return self._chains[request.model].run(inputs, request.outputs)

    async def is_ready(self, model: str, timeout: float) -> bool:
        """Return whether ``model`` is an opened pipeline."""
        return model in self._chains

    async def execution(self, model: str, timeout: float) -> str:
        """Return "", since every graph runs as it is."""
        return ""

    async def server_info(self, timeout: float) -> ServerInfo:
        """Return that there is no server."""
        return ServerInfo("in process", "")

    async def sleep(self, seconds: float) -> None:  # noqa: D102
        time.sleep(seconds)

    async def close(self) -> None:
        """Do nothing: there is no connection."""


class _TimedSession:
    """A session of ONNX Runtime that records the seconds of its runs."""

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
    """Encode an array of ``str`` as UTF-8."""
    encoded = [str(text).encode() for text in texts.flat]
    return np.array(encoded, dtype=np.object_).reshape(texts.shape)
