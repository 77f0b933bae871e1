"""Ratios of times that were taken in turn."""

from __future__ import annotations

import pytest

from benchmarks.timing import median_ratio


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
