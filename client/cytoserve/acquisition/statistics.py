"""Counts and times of an analyzer."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

MAX_DURATIONS = 1000
"""Number of answered frames, the latest ones, from which the percentiles are computed."""


@dataclass(frozen=True)
class AnalyzerStatistics:
    """What an analyzer did until now, all counted at one moment.

    ``submitted == answered + dropped + late + failed + waiting + in_flight``, always.

    Attributes:
        submitted: number of submitted frames.
        answered: frames whose answer came within the deadline.
        dropped: frames that were not sent, because newer or older ones came first or the analyzer
            was closed.
        late: frames without an answer within the deadline.
        failed: frames that were refused or answered with an error.
        waiting: frames that wait to be sent.
        in_flight: frames whose answer is awaited.
        skipped: frames that ``select`` left out; they are not submitted.
        callback_errors: number of exceptions that the callback raised.
        unread: results that the callback was too slow for; see ``Results.missed``.
        p50_s: median of the seconds from frame to cells, among the latest ``MAX_DURATIONS``
            answered frames; None if none was answered.
        p95_s: their 95th percentile.
        p99_s: their 99th percentile.
    """

    submitted: int = 0
    answered: int = 0
    dropped: int = 0
    late: int = 0
    failed: int = 0
    waiting: int = 0
    in_flight: int = 0
    skipped: int = 0
    callback_errors: int = 0
    unread: int = 0
    p50_s: float | None = None
    p95_s: float | None = None
    p99_s: float | None = None


def percentiles(durations: Collection[float]) -> tuple[float | None, float | None, float | None]:
    """Return the 50th, 95th and 99th percentile of durations in seconds; None if there is none."""
    if not durations:
        return None, None, None
    p50, p95, p99 = np.percentile(np.fromiter(durations, np.float64), (50, 95, 99)).tolist()
    return p50, p95, p99
