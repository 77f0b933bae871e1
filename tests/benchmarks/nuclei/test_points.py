"""Which points were found, on points placed by hand."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest

from benchmarks.nuclei.measures import PointMatches, match_points, together


@pytest.mark.parametrize(
    ("found", "annotated", "matched", "recall", "share"),
    [
        pytest.param([(5, 5)], [(5, 5)], 1, 1.0, 1.0, id="the same point"),
        pytest.param([(8, 9)], [(5, 5)], 1, 1.0, 1.0, id="at the radius"),
        pytest.param([(8.1, 9)], [(5, 5)], 0, 0.0, 0.0, id="beyond the radius"),
        pytest.param([(4, 5), (6, 5)], [(5, 5)], 1, 1.0, 0.5, id="two found for one annotated"),
        pytest.param([(5, 5)], [(4, 5), (6, 5)], 1, 0.5, 1.0, id="one found for two annotated"),
        pytest.param(
            [(0, 0), (4, 0)],
            [(3, 0), (7, 0)],
            *(2, 1.0, 1.0),
            id="the nearest pair alone would leave the others without a partner",
        ),
        pytest.param([], [(5, 5)], 0, 0.0, math.nan, id="none found"),
        pytest.param([(5, 5)], [], 0, math.nan, 0.0, id="none annotated"),
        pytest.param([], [], 0, math.nan, math.nan, id="nothing there"),
    ],
)
def test_match_points(found, annotated, matched, recall, share):
    figures = match_points(
        np.array(found, np.float32).reshape(-1, 2), np.array(annotated, float).reshape(-1, 2), 5
    )
    assert (figures.annotated, figures.found) == (len(annotated), len(found))
    assert figures.matched == matched
    assert (figures.recall, figures.matched_share) == pytest.approx((recall, share), nan_ok=True)


def test_no_other_pairing_has_more_pairs():
    random = np.random.default_rng(0)
    for _ in range(30):
        found, annotated = random.random((6, 2)) * 10, random.random((6, 2)) * 10
        near = np.linalg.norm(found[:, None] - annotated[None], axis=2) <= 3
        best = max(sum(near[range(6), order]) for order in permutations(range(6)))
        assert match_points(found, annotated, 3).matched == best


def test_fields_together_are_weighed_by_their_points():
    assert together([PointMatches(10, 4, 4), PointMatches(30, 8, 6)]) == PointMatches(40, 12, 10)
