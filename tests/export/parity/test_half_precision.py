"""The budget of float16: what counts as the same answer."""

from __future__ import annotations

import numpy as np
import pytest

from export.parity.half_precision import (
    LEVELS,
    SHARE,
    beyond_half_budget,
    half_budget,
    half_deviation,
)

BOXES = np.full((1, 2, 3), [[[640.0], [0.5]]], np.float32)


def moved(array: np.ndarray, channel: int, by: float) -> np.ndarray:
    changed = array.copy()
    changed[:, channel, 0] += by
    return changed


@pytest.mark.parametrize(
    ("expected", "found", "deviation"),
    [
        pytest.param(BOXES, BOXES, 0.0, id="the same"),
        pytest.param(BOXES, moved(BOXES, 0, 0.5), 0.01, id="a coordinate, of at most 50"),
        pytest.param(BOXES, moved(BOXES, 1, 0.02), 0.02, id="a score beside it, of at least 1"),
        pytest.param(BOXES / 640 * 20, moved(BOXES / 640 * 20, 0, 0.5), 0.025, id="of its own 20"),
        pytest.param(BOXES, BOXES[:, :1], np.inf, id="another shape"),
        pytest.param(BOXES, BOXES.astype(np.float16), np.inf, id="another dtype"),
        pytest.param(BOXES, moved(BOXES, 1, np.nan), np.inf, id="not a number"),
        pytest.param(BOXES[:0], BOXES[:0], 0.0, id="no row"),
        pytest.param(np.uint8([[250, 3]]), np.uint8([[247, 5]]), 3.0, id="levels"),
    ],
)
def test_deviation(expected: np.ndarray, found: np.ndarray, deviation: float) -> None:
    assert half_deviation(expected, found) == pytest.approx(deviation, rel=1e-3)


def test_what_is_beyond_is_named() -> None:
    levels = np.zeros((1, 4), np.uint8)
    expected = {"boxes": BOXES, "mask": levels, "sam_embedding": BOXES}
    within = {"boxes": moved(BOXES, 1, SHARE / 2), "mask": levels + np.uint8(LEVELS)}
    within["sam_embedding"] = moved(BOXES, 1, 1.5 * SHARE)
    assert beyond_half_budget(expected, within) == []
    beyond = {**within, "boxes": moved(BOXES, 1, 1.5 * SHARE), "mask": levels + np.uint8(5)}
    assert beyond_half_budget(expected, beyond) == [
        "boxes deviates by 0.015, 0.01 is allowed",
        "mask deviates by 5, 4 is allowed",
    ]
    assert half_budget("sam_embedding", np.float32) > half_budget("boxes", np.float32)
