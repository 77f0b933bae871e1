"""Measures nuclei: points that were found, and seams between tiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching
from scipy.spatial import KDTree

from cytoserve.contract import TILE_SIZE, TILE_STEP


@dataclass(frozen=True)
class PointMatches:
    """Numbers of points in one field, or in several together."""

    annotated: int
    found: int
    matched: int
    """Maximum number of pairs of a found and an annotated point within the radius; each point is in
    one pair at most."""

    @property
    def recall(self) -> float:
        """Share of the annotated points that have a partner; NaN if no point is annotated."""
        return self.matched / self.annotated if self.annotated else float("nan")

    @property
    def matched_share(self) -> float:
        """Share of the found points that have a partner; NaN if none was found.

        This is the precision only if every nucleus is annotated.
        """
        return self.matched / self.found if self.found else float("nan")


def match_points(
    found: npt.NDArray[Any], annotated: npt.NDArray[Any], radius: float
) -> PointMatches:
    """Pair points that lie within ``radius``, as many as possible, one to one.

    Args:
        found: ``[N, 2]``, (x, y) in frame pixels.
        annotated: ``[M, 2]``, (x, y) in frame pixels.
        radius: maximum distance of a pair in frame pixels, inclusive.
    """
    if not len(found) or not len(annotated):
        return PointMatches(len(annotated), len(found), 0)
    near = KDTree(annotated).query_ball_tree(KDTree(found), radius)
    ends = np.cumsum([0, *map(len, near)])
    columns = np.array([index for row in near for index in row], int)
    graph = csr_array((np.ones(len(columns), bool), columns, ends), (len(annotated), len(found)))
    partners = maximum_bipartite_matching(graph, perm_type="column")
    return PointMatches(len(annotated), len(found), int(np.count_nonzero(partners >= 0)))


def together(fields: Sequence[PointMatches]) -> PointMatches:
    """Sum the counts of several fields."""
    return PointMatches(
        sum(field.annotated for field in fields),
        sum(field.found for field in fields),
        sum(field.matched for field in fields),
    )


OFFSETS = ((32, 32), (64, 64), (96, 0), (0, 96))
"""Shifts of the grid, (x, y) in pixels; multiples of the tiles' step would not shift it."""

LIMIT = 3
"""Minimum difference of probability, in 1/255, that counts as visible."""


@dataclass(frozen=True)
class SeamFigures:
    """Differences of probability between two positions of the tile grid."""

    offset: tuple[int, int]
    """(x, y) in pixels."""
    pixels: int
    """Number of compared pixels."""
    below_limit: float
    """Share of them that differ by less than `LIMIT` / 255."""
    largest: int
    """Largest difference in 1/255."""


def grid_shifts(
    predict: Callable[[npt.NDArray[Any]], npt.NDArray[np.uint8]],
    frame: npt.NDArray[Any],
    offsets: Sequence[tuple[int, int]] = OFFSETS,
    margin: int = TILE_SIZE,
) -> list[SeamFigures]:
    """Predict the frame whole and without its first rows and columns, and compare.

    Cutting off rows and columns shifts the grid against the content. Pixels within ``margin`` of
    the smaller frame's borders are left out, since their tiles see mirrored content in one of the
    two. With the default margin, no tile of a compared pixel reaches over a border.

    Args:
        predict: ``[H, W]`` or ``[H, W, C]`` -> probability uint8 ``[H, W]``.
        frame: the frame to shift.
        offsets: numbers of columns and rows to cut off, (x, y) each.
        margin: width of the ignored border in pixels.

    Raises:
        ValueError: an offset does not shift the grid, or leaves no pixel to compare.
    """
    height, width = frame.shape[:2]
    for x, y in offsets:
        if x % TILE_STEP == 0 and y % TILE_STEP == 0:
            raise ValueError(f"({x}, {y}) does not shift a grid of step {TILE_STEP}.")
        if min(width - x, height - y) <= 2 * margin:
            raise ValueError(
                f"a frame of {width} x {height} px, cut by ({x}, {y}), has no pixel further than "
                f"{margin} px from its borders; take a larger frame."
            )
    whole = predict(frame)
    return [_compare(whole, predict(frame[y:, x:]), (x, y), margin) for x, y in offsets]


def _compare(
    whole: npt.NDArray[np.uint8],
    shifted: npt.NDArray[np.uint8],
    offset: tuple[int, int],
    margin: int,
) -> SeamFigures:
    x, y = offset
    height, width = shifted.shape
    inner = (slice(margin, height - margin), slice(margin, width - margin))
    difference = np.abs(whole[y:, x:][inner].astype(int) - shifted[inner])
    return SeamFigures(
        offset, difference.size, float(np.mean(difference < LIMIT)), int(difference.max())
    )
