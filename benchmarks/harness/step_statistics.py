"""Reads Triton's own statistics of every step: counts and times."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass

import tritonclient.grpc as triton

POLL_S = 0.02
"""Seconds between two readings of the statistics, which Triton updates after it answers."""

SETTLED = 5
"""Number of equal readings in succession after which the statistics are complete."""

SETTLE_TIMEOUT_S = 10.0
"""Maximum seconds until the statistics include answers that have already arrived."""

NANOSECONDS = 1e9


@dataclass(frozen=True)
class ModelCount:
    """Statistics of one model since the server started, or between two readings."""

    answers: int
    """Number of answered requests, including those from the response cache."""
    executions: int
    """Number of runs of the model: fewer than answers if requests were batched."""
    total: float
    """Seconds of all its answers, including waiting."""
    queue: float
    """Seconds for which its requests waited."""
    input: float
    """Seconds for moving inputs to where the model runs."""
    compute: float
    """Seconds for which the model ran."""
    output: float
    """Seconds for moving outputs from there."""

    def since(self, before: ModelCount) -> ModelCount:
        """Return what was counted after ``before``."""
        pairs = zip(astuple(self), astuple(before), strict=True)
        return ModelCount(*(now - then for now, then in pairs))


def counted(
    url: str,
    pipeline: str,
    ask: Callable[[], object],
    requests: int = 1,
    settle_timeout_s: float = SETTLE_TIMEOUT_S,
) -> dict[str, ModelCount]:
    """Return the statistics of the requests that ``ask`` sends, per pipeline and step.

    Nobody else may use the pipeline or its steps meanwhile, not even canaries: see
    `benchmarks.harness.serving`.

    Args:
        url: ``host:port`` of the server.
        pipeline: one of ``contract.PIPELINES``.
        ask: function that sends the requests and returns when they are answered.
        requests: number of requests that it sends.
        settle_timeout_s: maximum seconds until the statistics include the requests.

    Raises:
        RuntimeError: ``ask`` sent fewer or more requests, or the statistics came too late.
    """
    with triton.InferenceServerClient(url) as connection:
        names = (pipeline, *served_steps(connection, pipeline))
        before = settled(connection, names)
        ask()
        wanted = before[pipeline].answers + requests
        deadline = time.monotonic() + settle_timeout_s
        while (after := settled(connection, names))[pipeline].answers < wanted:
            if time.monotonic() > deadline:
                break
    answers = after[pipeline].answers - before[pipeline].answers
    if answers != requests:
        raise RuntimeError(
            f"{requests} request(s) to {pipeline} must be all that the server counts meanwhile; it "
            f"counts {answers}. Send as many, and let nobody else use the pipeline."
        )
    return {name: after[name].since(before[name]) for name in names}


def served_steps(connection: triton.InferenceServerClient, pipeline: str) -> tuple[str, ...]:
    """Return a pipeline's steps in the server; a variant may have others than the contract."""
    config = connection.get_model_config(pipeline).config
    return tuple(step.model_name for step in config.ensemble_scheduling.step)


def settled(
    connection: triton.InferenceServerClient, names: Sequence[str]
) -> dict[str, ModelCount]:
    """Return statistics by model once they stay the same: Triton counts after it has answered."""
    counts, same = _counts(connection, names), 1
    while same < SETTLED:
        time.sleep(POLL_S)
        now = _counts(connection, names)
        same = same + 1 if now == counts else 1
        counts = now
    return counts


def _counts(
    connection: triton.InferenceServerClient, names: Sequence[str]
) -> dict[str, ModelCount]:
    counts = {}
    for name in names:
        [model] = connection.get_inference_statistics(name).model_stats
        stats = model.inference_stats
        parts = (
            *(stats.success, stats.queue),
            *(stats.compute_input, stats.compute_infer, stats.compute_output),
        )
        seconds = (part.ns / NANOSECONDS for part in parts)
        counts[name] = ModelCount(stats.success.count, model.execution_count, *seconds)
    return counts
