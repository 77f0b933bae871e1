"""Budget of float16: how far a network's answers may move from those in float32."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from cytoserve.contract import SAM_EMBEDDING

SHARE = 0.01
"""Largest deviation of a float tensor, as a share of the largest magnitude in its channel."""

SHARES: Mapping[str, float] = {SAM_EMBEDDING.name: 0.02}
"""Tensor -> its own share. The decoder of SAM, in float32, makes masks of this one."""

LARGEST_SCALE = 50.0
"""Largest magnitude that counts, so that a box may move by half a pixel wherever it lies."""

LEVELS = 4.0
"""Largest deviation of an 8-bit tensor, in levels."""


def half_deviation(expected: npt.NDArray[Any], found: npt.NDArray[Any]) -> float:
    """Largest deviation in the units of the budget, infinite where shape or dtype differ.

    For floats ``[B, C, ...]`` it is a share of the channel's largest magnitude, between 1 and
    `LARGEST_SCALE`: scores beside coordinates are held to their own scale. For integers it is
    absolute.
    """
    if expected.shape != found.shape or expected.dtype != found.dtype:
        return float("inf")
    if not expected.size:
        return 0.0
    exact = expected.astype(np.float64)
    moved = np.abs(exact - found.astype(np.float64))
    if not np.isfinite(moved).all():
        return float("inf")
    if expected.dtype.kind != "f":
        return float(moved.max())
    others = tuple(axis for axis in range(exact.ndim) if axis != 1)
    scale = np.clip(np.abs(exact).max(axis=others), 1.0, LARGEST_SCALE)
    return float((moved.max(axis=others) / scale).max())


def half_budget(name: str, dtype: npt.DTypeLike) -> float:
    """Largest `half_deviation` that a tensor of this name and dtype may have."""
    return SHARES.get(name, SHARE) if np.dtype(dtype).kind == "f" else LEVELS


def beyond_half_budget(
    expected: Mapping[str, npt.NDArray[Any]], found: Mapping[str, npt.NDArray[Any]]
) -> list[str]:
    """One phrase per tensor, by name, that deviates by more than its budget."""
    figures = {name: half_deviation(array, found[name]) for name, array in expected.items()}
    budgets = {name: half_budget(name, array.dtype) for name, array in expected.items()}
    return [
        f"{name} deviates by {figure:.3g}, {budgets[name]:g} is allowed"
        for name, figure in figures.items()
        if figure > budgets[name]
    ]
