"""What a shift of the tile grid changes, for predictors whose dependence on the grid is known."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.nuclei.served import grid_shifts
from cytoserve.contract import TILE_STEP

FRAME = np.random.default_rng(0).integers(0, 200, (300, 320, 3)).astype(np.uint8)


def pixelwise(frame):
    return frame[:, :, 0]


def with_seams(frame):
    """The first column of every tile step is brighter by 3."""
    probability = frame[:, :, 0].copy()
    probability[:, ::TILE_STEP] += 3
    return probability


def with_faint_seams(frame):
    probability = frame[:, :, 0].copy()
    probability[:, ::TILE_STEP] += 2
    return probability


def at_the_border(frame):
    """The outermost 20 pixels depend on where the frame ends."""
    probability = np.full(frame.shape[:2], 255, np.uint8)
    probability[20:-20, 20:-20] = frame[20:-20, 20:-20, 0]
    return probability


@pytest.mark.parametrize(
    ("predict", "different_columns", "largest"),
    [
        pytest.param(pixelwise, [], 0, id="independent of the grid"),
        # Columns of the shifted frame, 280 wide: seams at 0, 128, 256 there; of the whole frame
        # at 128 - 40 and 256 - 40. Less the margin of 20.
        pytest.param(with_seams, [128, 256, 88, 216], 3, id="visible seams"),
        pytest.param(with_faint_seams, [], 2, id="seams below the limit"),
        pytest.param(at_the_border, [], 0, id="borders are left out"),
    ],
)
def test_grid_shifts(predict, different_columns, largest):
    (figures,) = grid_shifts(predict, FRAME, offsets=[(40, 0)], margin=20)
    columns = 280 - 2 * 20
    seen = [column for column in different_columns if 20 <= column < 260]
    assert figures.pixels == columns * (300 - 2 * 20)
    assert figures.below_limit == pytest.approx(1 - len(seen) / columns)
    assert figures.largest == largest


def test_the_borders_matter_without_a_margin():
    (figures,) = grid_shifts(at_the_border, FRAME, offsets=[(40, 0)], margin=0)
    assert figures.below_limit < 0.95


@pytest.mark.parametrize(
    ("offset", "margin", "message"),
    [
        pytest.param((TILE_STEP, 0), 20, "does not shift a grid", id="a whole step"),
        pytest.param((32, 32), 150, "no pixel further than 150 px", id="a frame too small"),
    ],
)
def test_a_comparison_that_shows_nothing_is_refused(offset, margin, message):
    with pytest.raises(ValueError, match=message):
        grid_shifts(pixelwise, FRAME, offsets=[offset], margin=margin)
