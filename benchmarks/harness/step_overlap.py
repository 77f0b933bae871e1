"""Where the seconds of one request go inside the server, and which steps ran at the same time.

All is read from Triton's own statistics. They hold durations, not times of day, so that two steps
overlapped follows from arithmetic: what both took together is more than there was room for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.harness.step_statistics import SETTLE_TIMEOUT_S, counted


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
    `benchmarks.harness.quiet_server`.

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
