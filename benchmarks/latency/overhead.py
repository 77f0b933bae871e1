"""Measures the server's overhead over its graphs, and splits the time of a call."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness.in_process import InProcess
from benchmarks.harness.load import Case, ask
from benchmarks.harness.serving import GRPC, SHARED_MEMORY
from benchmarks.harness.timing import median_interval, median_ratio, time_interleaved
from benchmarks.latency.result import OverheadRow
from cytoserve import Client
from cytoserve.transport import Request, ServerInfo, Tensors, Transport


@dataclass(frozen=True)
class CallSeconds:
    """One call of `cytoserve.Client`, in seconds."""

    encode: float
    """Seconds from the camera's array to the request's tensors."""
    transport: float
    """Seconds from the request's tensors to the answer's tensors."""
    decode: float
    """Seconds from the answer's tensors to cells or foreground."""
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
    """A transport that wraps another one and times its calls; for one thread.

    ::

        clock = SplitClock(GrpcTransport(url))
        client = Client(transport=clock)
        seconds = clock.time("yolo", lambda: client.segment(frame, "yolo"))
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._seen: list[_Inference] = []

    def time(self, pipeline: str, call: Callable[[], object]) -> CallSeconds:
        """Time one call, which sends one request to ``pipeline``.

        The client sometimes requests the pipeline's card first. This belongs to no frame and does
        not count.

        Raises:
            RuntimeError: the call sent no request or several.
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

    async def infer(self, request: Request, timeout: float) -> Tensors:  # noqa: D102
        begun = time.perf_counter()
        answer = await self._transport.infer(request, timeout)
        ended = time.perf_counter()
        self._seen.append(
            _Inference(request.model, begun, ended, _bytes(request.inputs), _bytes(answer))
        )
        return answer

    async def is_ready(self, model: str, timeout: float) -> bool:  # noqa: D102
        return await self._transport.is_ready(model, timeout)

    async def execution(self, model: str, timeout: float) -> str:  # noqa: D102
        return await self._transport.execution(model, timeout)

    async def server_info(self, timeout: float) -> ServerInfo:  # noqa: D102
        return await self._transport.server_info(timeout)

    async def sleep(self, seconds: float) -> None:  # noqa: D102
        await self._transport.sleep(seconds)

    async def close(self) -> None:  # noqa: D102
        await self._transport.close()


def _bytes(tensors: Tensors) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


AT = Case(1024, 1024, 15)
"""Frames on which the server is compared with its graphs in this process."""

ROUNDS = 12
"""Minimum number of rounds: a median of fewer is unreliable on a busy machine."""

MAX_ROUNDS = 100
"""Maximum number of rounds: more would only sharpen the last digit."""

IN_PROCESS = "in process"


def measure_overhead(
    served: Mapping[str, Client],
    repository: Path,
    pipeline: str,
    variant: str,
    seconds: float,
    timeout: float,
) -> OverheadRow:
    """Time the server's transports and the same graphs in this process, interleaved, on `AT`.

    Nobody else may use the server meanwhile, not even canaries.

    Args:
        served: a client per transport of `TRANSPORTS`.
        repository: the model repository that their server serves.
        pipeline: one of its pipelines.
        variant: variant that the server serves; the graphs in this process are the default's.
        seconds: duration of all requests together; there are at least `ROUNDS` rounds.
        timeout: maximum seconds per frame.
    """
    frame = AT.frame()
    with Client(transport=InProcess(repository, [pipeline]), timeout=timeout) as local:
        calls: Mapping[str, Callable[[], object]] = {
            name: partial(ask, client, pipeline, frame)
            for name, client in {**served, IN_PROCESS: local}.items()
        }
        one_round = sum(sum(each) for each in time_interleaved(calls, 1).values())
        rounds = max(ROUNDS, min(MAX_ROUNDS, math.floor(seconds / one_round)))
        times = time_interleaved(calls, rounds, warm_ups=0)
    return OverheadRow(pipeline=pipeline, variant=variant, **vars(AT), **ratios(times))


def ratios(times: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Return medians in milliseconds, and each transport's `median_ratio` with its interval."""
    limit = times[IN_PROCESS]
    return {
        "requests": len(limit),
        "grpc_ms": statistics.median(times[GRPC]) * 1e3,
        "shared_memory_ms": statistics.median(times[SHARED_MEMORY]) * 1e3,
        "in_process_ms": statistics.median(limit) * 1e3,
        "overhead": median_ratio(times[GRPC], limit),
        "overhead_interval": median_interval(np.divide(times[GRPC], limit)),
        "overhead_shared_memory": median_ratio(times[SHARED_MEMORY], limit),
        "overhead_shared_memory_interval": median_interval(np.divide(times[SHARED_MEMORY], limit)),
    }
