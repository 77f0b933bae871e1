"""Which points were found, on points placed by hand."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from benchmarks.nuclei.served import match_points


@pytest.mark.parametrize(
    ("found", "annotated", "matched"),
    [
        pytest.param([(5, 5)], [(5, 5)], 1, id="the same point"),
        pytest.param([(8, 9)], [(5, 5)], 1, id="at the radius"),
        pytest.param([(8.1, 9)], [(5, 5)], 0, id="beyond the radius"),
        pytest.param([(4, 5), (6, 5)], [(5, 5)], 1, id="two found for one annotated"),
        pytest.param([(5, 5)], [(4, 5), (6, 5)], 1, id="one found for two annotated"),
        pytest.param(
            [(0, 0), (4, 0)],
            [(3, 0), (7, 0)],
            2,
            id="the nearest pair alone would leave the others without a partner",
        ),
        pytest.param([], [(5, 5)], 0, id="none found"),
        pytest.param([(5, 5)], [], 0, id="none annotated"),
        pytest.param([], [], 0, id="nothing there"),
    ],
)
def test_match_points(found, annotated, matched):
    points = np.array(found, np.float32).reshape(-1, 2), np.array(annotated, float).reshape(-1, 2)
    assert match_points(*points, 5) == matched


def test_no_other_pairing_has_more_pairs():
    random = np.random.default_rng(0)
    for _ in range(30):
        found, annotated = random.random((6, 2)) * 10, random.random((6, 2)) * 10
        near = np.linalg.norm(found[:, None] - annotated[None], axis=2) <= 3
        best = max(sum(near[range(6), order]) for order in permutations(range(6)))
        assert match_points(found, annotated, 3) == best
