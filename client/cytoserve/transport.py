"""Transports carry requests to a server: the only part in which the clients differ.

The methods are ``async def`` although ``GrpcTransport`` blocks: one implementation of the logic
serves ``Client`` and ``AsyncClient``. A synchronous transport simply never awaits anything.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from numpy.typing import NDArray

from cytoserve import contract
from cytoserve.errors import PipelineNotServed, VersionNotServed

Tensors = Mapping[str, NDArray[Any]]
"""Name of a tensor in the contract -> its values."""


@dataclass(frozen=True)
class Request:
    """One inference: the model, its input tensors, and the requested outputs.

    ``id`` is sent along: errors here and lines of the server's log name it. ``origin`` is the row
    and column of the frame at which a window begins. It is not sent: a real server needs only the
    pixels. A fake server with prepared answers needs the position, too.
    """

    model: str
    inputs: Tensors
    outputs: tuple[str, ...]
    origin: tuple[int, int] = (0, 0)
    id: str = field(default_factory=lambda: secrets.token_hex(6), compare=False)


@dataclass(frozen=True)
class ServerInfo:
    """Name and version that the server reports, such as ``triton`` and ``2.51.0``."""

    name: str
    version: str


class Transport(Protocol):
    """Methods that every connection to a server has.

    ``timeout`` is in seconds and applies to one call. All methods raise the errors of
    :mod:`cytoserve.errors` and no others.
    """

    async def infer(self, request: Request, timeout: float) -> Tensors:
        """Run one inference and return the outputs that the request names.

        Raises:
            PipelineNotServed: the server has no such model; ``pipeline`` is the model's name.
        """
        ...

    async def is_ready(self, model: str, timeout: float) -> bool:
        """Whether the server has loaded ``model``."""
        ...

    async def execution(self, model: str, timeout: float) -> str:
        """Return how ``model`` is run, if not simply with its usual file on ONNX Runtime.

        The text names other files of the model's version, such as ``model.int8.onnx``, and
        accelerators. It changes when they change, and is empty by default.

        Raises:
            PipelineNotServed: the server has no such model.
        """
        ...

    async def server_info(self, timeout: float) -> ServerInfo:
        """Return the server's name and version."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait before the next try."""
        ...

    async def close(self) -> None:
        """Close the connection."""
        ...


class VersionTransport:
    """Asks the server behind another transport for one version of its pipelines."""

    def __init__(self, transport: Transport, version: int) -> None:
        self._transport = transport
        self._version = version
        self.execution = transport.execution
        self.server_info = transport.server_info
        self.sleep = transport.sleep
        self.close = transport.close

    async def infer(self, request: Request, timeout: float) -> Tensors:
        """Run one inference with the version.

        Raises:
            VersionNotServed: the server does not offer this version of the pipeline.
        """
        name = contract.version_name(request.model, self._version)
        try:
            return await self._transport.infer(replace(request, model=name), timeout)
        except PipelineNotServed as error:
            [pipeline] = (
                p for p in contract.PIPELINES.values() if request.model in (p.name, p.card)
            )
            raise VersionNotServed(pipeline.name, self._version) from error

    async def is_ready(self, model: str, timeout: float) -> bool:
        """Whether the server has loaded the version of ``model``."""
        name = contract.version_name(model, self._version)
        return await self._transport.is_ready(name, timeout)
