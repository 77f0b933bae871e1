"""Cells prompted by true boxes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.instances.__main__ import boxes_of, prompted_ious, prompted_quality
from cytoserve import Cells, cells_from_labels
from training.datasets.annotated import AnnotatedCell


def square(x: int, y: int, side: int = 20) -> AnnotatedCell:
    return AnnotatedCell(x, y, np.ones((side, side), bool), 0)


def half(x: int, y: int) -> AnnotatedCell:
    """A triangle, which fills about half of its box."""
    return AnnotatedCell(x, y, np.tri(20, dtype=bool), 0)


def answer(*cells: AnnotatedCell) -> Cells:
    """Return the cells as `sam_prompt` would answer them, in the order given."""
    labels = np.zeros((100, 100), np.uint16)
    for index, cell in enumerate(cells, start=1):
        height, width = cell.mask.shape
        labels[cell.y : cell.y + height, cell.x : cell.x + width][cell.mask] = index
    found = cells_from_labels(labels, np.zeros(len(cells), np.int32), ("cell",))
    return replace(found, scores=np.linspace(0.5, 0.9, len(cells)).astype(np.float32))


def empty(cells: Cells, row: int) -> Cells:
    patches = cells.patches.copy()
    patches[row] = 0
    return replace(cells, patches=patches)


@pytest.mark.parametrize(
    ("found", "truth", "expected"),
    [
        pytest.param(answer(), [], [], id="no prompt"),
        pytest.param(answer(square(0, 0)), [square(0, 0)], [1.0], id="the same"),
        pytest.param(
            answer(square(50, 50), square(0, 0)),
            [square(50, 50), square(5, 0)],
            [1.0, 15 / 25],
            id="by the order of the prompts",
        ),
        pytest.param(
            answer(square(50, 50), square(0, 0)),
            [square(0, 0), square(50, 50)],
            [0.0, 0.0],
            id="no other cell is looked for",
        ),
        pytest.param(
            empty(answer(square(0, 0), square(50, 50)), 0),
            [square(0, 0), square(50, 50)],
            [0.0, 1.0],
            id="an empty mask",
        ),
    ],
)
def test_prompted_ious(found, truth, expected):
    assert prompted_ious(found, truth) == pytest.approx(expected)


def test_an_answer_of_another_length_is_refused():
    with pytest.raises(ValueError, match="zip"):
        prompted_ious(answer(square(0, 0)), [square(0, 0), square(50, 50)])


def test_quality_is_over_the_cells_of_all_frames():
    first = (answer(square(0, 0), square(50, 50)), [square(0, 0), square(60, 50)])
    second = (answer(half(10, 10)), [half(10, 10)])
    quality = prompted_quality([first, second])
    ious = [1.0, 1 / 3, 1.0]
    assert quality.iou == pytest.approx(np.mean(ious), abs=0.02)  # a triangle's edge in a patch
    assert quality.above_half == pytest.approx(2 / 3)
    assert quality.box_iou == pytest.approx((1 + 1 + half(0, 0).area / 400) / 3)
    assert quality.quality == pytest.approx((0.5 + 0.9 + 0.5) / 3)
    assert quality.cells == 3


def test_without_cells_there_is_no_quality():
    quality = prompted_quality([(answer(), []), (None, [])])
    figures = (quality.iou, quality.above_half, quality.box_iou, quality.quality)
    assert all(math.isnan(figure) for figure in figures)
    assert quality.cells == 0


def test_boxes_of_annotated_cells():
    np.testing.assert_array_equal(boxes_of([square(5, 7), half(1, 2)])[0], [5, 7, 25, 27])
    assert boxes_of([]).shape == (0, 4)
