"""Where the seconds of one call go at the client: encoding, waiting for the server, decoding."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from cytoserve.transport import Request, ServerInfo, Tensors, Transport


@dataclass(frozen=True)
class CallSeconds:
    """One call of `cytoserve.Client`, in seconds."""

    encode: float
    """From the camera's array to the request's tensors."""
    transport: float
    """From those until the answer's tensors are here."""
    decode: float
    """From those to cells or foreground."""
    request_bytes: int
    answer_bytes: int

    @property
    def total(self) -> float:
        """The whole call, as its caller sees it."""
        return self.encode + self.transport + self.decode


@dataclass(frozen=True)
class _Inference:
    model: str
    begun: float
    ended: float
    request_bytes: int
    answer_bytes: int


class SplitClock:
    """A transport around another, whose calls it times; for one thread.

    ::

        clock = SplitClock(GrpcTransport(url))
        client = Client(transport=clock)
        seconds = clock.time("yolo", lambda: client.segment(frame, "yolo"))
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._seen: list[_Inference] = []

    def time(self, pipeline: str, call: Callable[[], object]) -> CallSeconds:
        """Time one call, which asks ``pipeline`` once.

        The client now and then asks for the pipeline's card first: that belongs to no frame, and
        is left out.

        Raises:
            RuntimeError: it asked the pipeline never or several times.
        """
        self._seen.clear()
        begun = time.perf_counter()
        call()
        ended = time.perf_counter()
        asked = [inference for inference in self._seen if inference.model == pipeline]
        if len(asked) != 1:
            raise RuntimeError(
                f"one request to {pipeline} can be split; the call sent {len(asked)}"
            )
        [own] = asked
        others = sum(each.ended - each.begun for each in self._seen if each is not own)
        return CallSeconds(
            encode=own.begun - begun - others,
            transport=own.ended - own.begun,
            decode=ended - own.ended,
            request_bytes=own.request_bytes,
            answer_bytes=own.answer_bytes,
        )

    async def infer(self, request: Request, timeout: float) -> Tensors:
        """Pass on, and note the time."""
        begun = time.perf_counter()
        answer = await self._transport.infer(request, timeout)
        ended = time.perf_counter()
        self._seen.append(
            _Inference(request.model, begun, ended, _bytes(request.inputs), _bytes(answer))
        )
        return answer

    async def is_ready(self, model: str, timeout: float) -> bool:
        """Pass on."""
        return await self._transport.is_ready(model, timeout)

    async def execution(self, model: str, timeout: float) -> str:
        """Pass on."""
        return await self._transport.execution(model, timeout)

    async def server_info(self, timeout: float) -> ServerInfo:
        """Pass on."""
        return await self._transport.server_info(timeout)

    async def sleep(self, seconds: float) -> None:
        """Pass on."""
        await self._transport.sleep(seconds)

    async def close(self) -> None:
        """Pass on."""
        await self._transport.close()


def _bytes(tensors: Tensors) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())
