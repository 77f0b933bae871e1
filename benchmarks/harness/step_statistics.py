"""Triton's own statistics of every step: counts, times, and what ran at the same time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass

import tritonclient.grpc as triton

POLL = 0.02
"""Seconds between two looks at the statistics, which follow the answers."""

SETTLED = 5
"""Looks in a row that must see the same before it is taken for all there is."""

SETTLE_TIMEOUT_S = 10.0
"""Seconds in which the statistics must tell of answers that are already here."""

NANOSECONDS = 1e9


@dataclass(frozen=True)
class ModelCount:
    """Statistics of one model: since the server started, or of the requests between two looks."""

    answers: int
    """Requests answered, those from the response cache included."""
    executions: int
    """Runs of the model: fewer than answers where requests were batched."""
    total: float
    """Seconds of all its answers, waiting included."""
    queue: float
    """Seconds in which its requests waited to be run."""
    input: float
    """Seconds of getting inputs to where the model runs."""
    compute: float
    """Seconds in which the model ran."""
    output: float
    """Seconds of getting outputs from there."""

    @property
    def executed(self) -> float:
        """Seconds of its executions until they have answered: inputs and network.

        Outputs are left out: the next step may begin before Triton has counted all of this one's.
        """
        return self.input + self.compute

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
    """Statistics of the requests that ``ask`` sends, of the pipeline and of each of its steps.

    Nobody else may use the pipeline or its steps meanwhile, canaries neither: see
    `benchmarks.harness.serving`.

    Args:
        url: ``host:port`` of the server.
        pipeline: one of ``contract.PIPELINES``.
        ask: sends requests to it, and returns when they are answered.
        requests: how many it sends.
        settle_timeout_s: seconds in which the statistics must tell of them.

    Raises:
        RuntimeError: ``ask`` sent fewer or more, or the statistics did not come in time.
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
    """Steps of a pipeline as the server runs it: a variant may have others than the contract."""
    config = connection.get_model_config(pipeline).config
    return tuple(step.model_name for step in config.ensemble_scheduling.step)


def settled(
    connection: triton.InferenceServerClient, names: Sequence[str]
) -> dict[str, ModelCount]:
    """Statistics by model once they stand still: Triton counts after it has answered."""
    counts, same = _counts(connection, names), 1
    while same < SETTLED:
        time.sleep(POLL)
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


@dataclass(frozen=True)
class RequestSeconds:
    """What one request to a pipeline took inside the server, in seconds."""

    total: float
    """From its arrival until it was answered."""
    steps: Mapping[str, float]
    """Step -> its execution, 0.0 where the response cache answered. Steps that nothing was asked
    of are left out."""

    def together(self, one: str, other: str, after: Sequence[str]) -> float:
        """Return the least time that two steps must have run together; 0.0 if none is proven.

        Args:
            one: a step.
            other: a step that neither waits for the first nor is waited for by it.
            after: steps that begin when both have ended, and run one after the other.
        """
        room = self.total - sum(self.steps[step] for step in after)
        return max(0.0, self.steps[one] + self.steps[other] - room)


def request_seconds(url: str, pipeline: str, ask: Callable[[], object]) -> RequestSeconds:
    """Time one request by the server's statistics.

    Nobody else may use the pipeline or its steps meanwhile, canaries neither: see
    `benchmarks.harness.serving`.

    Args:
        url: ``host:port`` of the server.
        pipeline: one of ``contract.PIPELINES``.
        ask: sends exactly one request to it, and returns when it is answered.

    Raises:
        RuntimeError: ``ask`` sent none or several, or the statistics did not come in time.
    """
    counts = counted(url, pipeline, ask, settle_timeout_s=SETTLE_TIMEOUT_S)
    return RequestSeconds(
        counts.pop(pipeline).total,
        {name: count.executed for name, count in counts.items() if count.answers},
    )
