"""What carries requests to a server: the one place where clients differ.

The verbs are coroutines so that the logic of a call is written once. A blocking transport
simply never suspends in them (see :class:`cytoserve.client.Client`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

Tensors = Mapping[str, NDArray[Any]]
"""Tensors by their name in the contract."""


@dataclass(frozen=True)
class Request:
    """One inference: the model, its input tensors, and the outputs that are wanted.

    ``origin`` is the row and column of the frame at which a window of it begins. It is not sent:
    a server needs no more than the pixels, a fake one with a ready answer does.
    """

    model: str
    inputs: Tensors
    outputs: tuple[str, ...]
    origin: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class ServerInfo:
    """Name and version that the server gives itself, such as ``triton`` and ``2.51.0``."""

    name: str
    version: str


class Transport(Protocol):
    """Five verbs towards a server, and the end.

    ``timeout`` is in seconds, for this one call. All verbs raise the errors of
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
        """How ``model`` is run where that is not by its usual file on ONNX Runtime alone.

        Other files of its version and accelerators are named, such as ``model.int8.onnx``; the
        text changes when they do, and is empty by default.

        Raises:
            PipelineNotServed: the server has no such model.
        """
        ...

    async def server_info(self, timeout: float) -> ServerInfo:
        """Ask the server who it is."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait before the next try."""
        ...

    async def close(self) -> None:
        """Give the connection back."""
        ...
