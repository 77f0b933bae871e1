"""Straight lines through what was measured: what one more megapixel, cell or client costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Slope:
    """A least-squares line through some points."""

    slope: float
    intercept: float
    r_squared: float
    """1: the points lie on the line; 0: it tells nothing of them."""
    points: int

    @classmethod
    def through(cls, xs: Sequence[float], ys: Sequence[float]) -> Slope:
        """Fit a line to two points or more.

        Raises:
            ValueError: all ``xs`` are one.
        """
        if len(set(xs)) < 2:
            raise ValueError(f"a line needs points at two places or more; given: {list(xs)}")
        slope, intercept = np.polyfit(xs, ys, 1)
        rest = np.asarray(ys) - (slope * np.asarray(xs) + intercept)
        spread = float(((np.asarray(ys) - np.mean(ys)) ** 2).sum())
        fitted = 1 - float((rest**2).sum()) / spread if spread else 1.0
        return cls(float(slope), float(intercept), fitted, len(xs))


@dataclass(frozen=True)
class Growth:
    """One quantity against another, in rows of a result."""

    rows: str
    """Key of the rows in the result."""
    x: str
    y: str
    unit: str
    fixed: tuple[str, ...] = ()
    """Columns that must be the same in all points: the most frequent values are taken."""


GROWTHS = (
    Growth("frames", "megapixels", "p50_ms", "ms per megapixel", ("cells",)),
    Growth("frames", "megapixels", "peak_mb", "MB per megapixel", ("cells",)),
    Growth("frames", "found", "p50_ms", "ms per cell", ("width", "height")),
    Growth("frames", "found", "peak_mb", "MB per cell", ("width", "height")),
    Growth("clients", "clients", "p50_ms", "ms per client"),
    Growth("clients", "clients", "peak_mb", "MB per client"),
    Growth("loaded", "pipelines", "start_s", "s per pipeline"),
    Growth("loaded", "pipelines", "memory_mb", "MB per pipeline"),
)


def slopes(result: Mapping[str, Sequence[Row]]) -> list[dict[str, Any]]:
    """One row for every pipeline and growth that has points at two places or more."""
    found = []
    for growth in GROWTHS:
        rows = [row for row in result[growth.rows] if row[growth.y] is not None]
        for pipeline in dict.fromkeys(row.get("pipeline") for row in rows):
            own = _with_most_common(
                [row for row in rows if row.get("pipeline") == pipeline], growth.fixed
            )
            if len({row[growth.x] for row in own}) < 2:
                continue
            line = Slope.through([row[growth.x] for row in own], [row[growth.y] for row in own])
            about = {"pipeline": pipeline or "all", "unit": growth.unit}
            found.append({**about, "x": growth.x, "y": growth.y, **vars(line)})
    return found


def slope_of(rows: Iterable[Row], pipeline: str, unit: str) -> float:
    """Return one slope.

    Raises:
        KeyError: it was not measured.
    """
    for row in rows:
        if row["pipeline"] == pipeline and row["unit"] == unit:
            return float(row["slope"])
    raise KeyError(f"{pipeline}, {unit}")


def _with_most_common(rows: Sequence[Row], columns: Sequence[str]) -> list[Row]:
    """Rows with the values of ``columns`` that most rows have; of equal ones, the first."""
    kinds = [tuple(row[column] for column in columns) for row in rows]
    common = max(kinds, key=kinds.count)
    return [row for row, kind in zip(rows, kinds, strict=True) if kind == common]
