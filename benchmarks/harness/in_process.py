"""A client whose requests its own process answers: the limit that a server is compared with.

::

    client = Client(transport=InProcess(Path("model_repository"), ["yolo_resnet"]))
    cells = client.segment(frame)

The same code as with a server encodes the request and decodes the answer, and the graphs run in the
ensemble's order. A server adds the rest: the wire, and the hops between steps.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cytoserve.contract import PIPELINES
from cytoserve.errors import PipelineNotServed
from cytoserve.transport import Request, ServerInfo, Tensors
from export.graphs.files import open_session
from export.parity.chain import Chain, newest_graph
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


def as_bytes(texts: npt.NDArray[np.object_]) -> npt.NDArray[np.object_]:
    """Encode an array of ``str`` as UTF-8."""
    encoded = [str(text).encode() for text in texts.flat]
    return np.array(encoded, dtype=np.object_).reshape(texts.shape)
