"""Percentiles are values that were measured, and the largest of few is said to be that."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.harness.timing import percentile, percentile_text


@pytest.mark.parametrize(
    ("count", "p50", "p99"), [(1, 1, 1), (2, 1, 2), (99, 50, 99), (100, 50, 99), (200, 100, 198)]
)
def test_percentiles_were_measured(count, p50, p99):
    values = np.random.default_rng(0).permutation(np.arange(1, count + 1)).astype(float)
    assert percentile(values, 50) == p50
    assert percentile(values, 99) == p99


@pytest.mark.parametrize(
    ("rank", "count", "text"),
    [
        pytest.param(99, 99, "7 max", id="too few"),
        pytest.param(99, 100, "7", id="just enough"),
        pytest.param(95, 19.8, "7 max", id="a mean number"),
        pytest.param(50, 2, "7", id="a median"),
    ],
)
def test_the_largest_of_few_is_marked(rank, count, text):
    assert percentile_text("7", rank, count) == text
