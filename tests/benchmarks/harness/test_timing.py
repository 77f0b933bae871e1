"""Times that were taken in turn, and their ratios."""

from __future__ import annotations

from collections import Counter
from functools import partial
from itertools import pairwise, permutations

import pytest

from benchmarks.harness.timing import median_ratio, time_interleaved, williams_orders


@pytest.mark.parametrize("count", range(1, 8))
def test_every_way_follows_every_other_one_equally_often(count):
    orders = williams_orders(count)
    assert all(sorted(order) == list(range(count)) for order in orders)
    follows = Counter(pair for order in orders for pair in pairwise(order))
    assert set(follows) == set(permutations(range(count), 2))
    assert len(set(follows.values())) <= 1


def test_rounds_go_through_the_orders_and_warm_ups_are_not_timed():
    asked = []
    ways = {name: partial(asked.append, name) for name in "abc"}
    seconds = time_interleaved(ways, repeats=5, warm_ups=2)
    rounds = ["".join(asked[first : first + 3]) for first in range(0, len(asked), 3)]
    assert rounds == ["abc", "cba", "bca", "acb", "cab", "bac", "abc"]
    assert {name: len(times) for name, times in seconds.items()} == {"a": 5, "b": 5, "c": 5}


@pytest.mark.parametrize(
    ("over", "under", "ratio"),
    [
        pytest.param([2.0], [1.0], 2.0, id="one frame"),
        pytest.param([2.0, 20.0, 200.0], [1.0, 10.0, 100.0], 2.0, id="frames of many costs"),
        pytest.param([1.1, 11.0, 1.1], [1.0, 10.0, 1.0], 1.1, id="a busy moment in both times"),
        pytest.param([1.1, 9.9, 1.1], [1.0, 1.0, 1.0], 1.1, id="a busy moment in one of them"),
        pytest.param([6.0, 1.0, 9.0], [2.0, 4.0, 9.0], 1.0, id="not the ratio of the medians"),
    ],
)
def test_a_ratio_is_the_median_of_the_frames_own(over, under, ratio):
    assert median_ratio(over, under) == pytest.approx(ratio)


def test_times_of_other_frames_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        median_ratio([1.0, 2.0], [1.0])
