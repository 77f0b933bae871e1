"""Percentiles of what was measured, and how sure they are of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import bootstrap


def percentile(values: Sequence[float], rank: int) -> float:
    """The smallest value that ``rank`` percent do not exceed: of few, the largest."""
    return float(np.percentile(values, rank, method="inverted_cdf"))


def percentile_text(value: str, rank: int, count: float) -> str:
    """A percentile for a table, marked where its ``count`` of values made it the largest."""
    return value if count * (100 - rank) >= 100 else f"{value} max"


def median_interval(values: npt.ArrayLike) -> list[float]:
    """The 95 % confidence interval of the median of two values or more: its low and its high end.

    Values are drawn again from those that were measured (the percentile bootstrap; Efron, 1979,
    Annals of Statistics 7:1).
    """
    found = bootstrap(
        (values,), np.median, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return [float(found.low), float(found.high)]
