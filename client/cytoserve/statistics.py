"""Counts and times that a server keeps of its models: Triton's own statistics."""

from __future__ import annotations

from dataclasses import dataclass

import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2

from cytoserve.access import Access
from cytoserve.grpc_transport import Endpoint, mapped_errors

_NS_PER_MS = 1e6


@dataclass(frozen=True)
class ModelStatistics:
    """Counts and times of one version of a model since it was loaded.

    Attributes:
        model: name of the pipeline, step or card.
        version: number of the version.
        requests: number of requests that were answered.
        errors: number of requests that ended in an error.
        mean_ms: mean time from arrival to answer, in milliseconds.
        queue_ms: mean time that a request waited for its turn, in milliseconds.
        compute_ms: mean time that a request was computed, in milliseconds. Requests that ran as
            one batch count its whole time each. 0 for a pipeline: its steps compute.
    """

    model: str
    version: int
    requests: int
    errors: int
    mean_ms: float
    queue_ms: float
    compute_ms: float


def read_statistics(url: str, access: Access, timeout: float) -> list[ModelStatistics]:
    """Ask a server for the statistics of every loaded version of every model.

    Args:
        url: address of the server's gRPC endpoint.
        access: certificates and key, for a server that asks for them.
        timeout: deadline in seconds.

    Raises:
        CytoserveError: see :class:`cytoserve.Client`.
    """
    endpoint = Endpoint(url, access, {})
    with (
        endpoint.triton_client(triton.InferenceServerClient) as connection,
        mapped_errors(url, "the server", timeout),
    ):
        answer = connection.get_inference_statistics(
            headers=endpoint.headers, client_timeout=timeout
        )
    return [_statistics(model) for model in answer.model_stats]


def _statistics(model: service_pb2.ModelStatistics) -> ModelStatistics:
    counted = model.inference_stats
    return ModelStatistics(
        model.name,
        int(model.version),
        int(counted.success.count),
        int(counted.fail.count),
        _mean_ms(counted.success),
        _mean_ms(counted.queue),
        _mean_ms(counted.compute_infer),
    )


def _mean_ms(duration: service_pb2.StatisticDuration) -> float:
    return duration.ns / duration.count / _NS_PER_MS if duration.count else 0.0
