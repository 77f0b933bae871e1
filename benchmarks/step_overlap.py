"""Where the seconds of one request go inside the server, and which steps ran at the same time.

All is read from Triton's own statistics. They hold durations, not times of day, so that two steps
overlapped follows from arithmetic: what both took together is more than there was room for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import tritonclient.grpc as triton

from cytoserve.contract import PIPELINES

POLL = 0.02
"""Seconds between two looks at the statistics, which follow the answers."""

SETTLED = 5
"""Looks in a row that must see the same before it is taken for all there is."""

PATIENCE = 10.0
"""Seconds in which the statistics must tell of an answer that is already here."""

NANOSECONDS = 1e9


@dataclass(frozen=True)
class StepCount:
    """Cumulative statistics of one model."""

    answers: int
    """Those from the response cache included."""
    total: float
    """Seconds of all its answers, waiting included."""
    computed: float
    """Seconds of its executions: inputs, network, outputs."""


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
    `benchmarks.quiet_server`.

    Args:
        url: ``host:port`` of the server.
        pipeline: one of ``contract.PIPELINES``.
        ask: sends exactly one request to it, and returns when it is answered.

    Raises:
        RuntimeError: ``ask`` sent none or several, or the statistics did not come in time.
    """
    names = (pipeline, *PIPELINES[pipeline].steps)
    with triton.InferenceServerClient(url) as connection:
        before = _settled(connection, names)
        ask()
        deadline = time.monotonic() + PATIENCE
        while (after := _settled(connection, names))[pipeline].answers == before[pipeline].answers:
            if time.monotonic() > deadline:
                break
    answers = after[pipeline].answers - before[pipeline].answers
    if answers != 1:
        raise RuntimeError(
            f"exactly one request to {pipeline} can be timed; the server counts {answers}. Send "
            "one, and let nobody else use the pipeline meanwhile."
        )
    return RequestSeconds(
        after[pipeline].total - before[pipeline].total,
        {
            name: after[name].computed - before[name].computed
            for name in names[1:]
            if after[name].answers > before[name].answers
        },
    )


def _settled(
    connection: triton.InferenceServerClient, names: Sequence[str]
) -> dict[str, StepCount]:
    counts, same = _counts(connection, names), 1
    while same < SETTLED:
        time.sleep(POLL)
        now = _counts(connection, names)
        same = same + 1 if now == counts else 1
        counts = now
    return counts


def _counts(connection: triton.InferenceServerClient, names: Sequence[str]) -> dict[str, StepCount]:
    counts = {}
    for name in names:
        [model] = connection.get_inference_statistics(name).model_stats
        stats = model.inference_stats
        computed = sum(
            part.ns for part in (stats.compute_input, stats.compute_infer, stats.compute_output)
        )
        counts[name] = StepCount(
            stats.success.count, stats.success.ns / NANOSECONDS, computed / NANOSECONDS
        )
    return counts
