"""Percentiles of what was measured, and whether there was enough of it to tell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def percentile(values: Sequence[float], rank: int) -> float:
    """The smallest value that ``rank`` percent do not exceed: of few, the largest."""
    return float(np.percentile(values, rank, method="inverted_cdf"))


def percentile_text(value: str, rank: int, count: float) -> str:
    """A percentile for a table, marked where its ``count`` of values made it the largest."""
    return value if count * (100 - rank) >= 100 else f"{value} max"
