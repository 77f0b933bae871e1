"""Found centres against annotated points: which nuclei were found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching
from scipy.spatial import KDTree


@dataclass(frozen=True)
class PointMatches:
    """Counts of one field or of several together."""

    annotated: int
    found: int
    matched: int
    """Most pairs of a found and an annotated point within the radius, each point in one pair."""

    @property
    def recall(self) -> float:
        """Share of the annotated points that have a partner; NaN where there is none."""
        return self.matched / self.annotated if self.annotated else float("nan")

    @property
    def matched_share(self) -> float:
        """Share of the found points that have a partner; NaN where none was found.

        This is a precision only where every nucleus was annotated.
        """
        return self.matched / self.found if self.found else float("nan")


def match_points(
    found: npt.NDArray[Any], annotated: npt.NDArray[Any], radius: float
) -> PointMatches:
    """Pair points that lie within ``radius``, as many as possible, one to one.

    Args:
        found: ``[N, 2]``, (x, y) in frame pixels.
        annotated: ``[M, 2]``, (x, y) in frame pixels.
        radius: largest distance of a pair in frame pixels, inclusive.
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
    """The counts of several fields summed up."""
    return PointMatches(
        sum(field.annotated for field in fields),
        sum(field.found for field in fields),
        sum(field.matched for field in fields),
    )
