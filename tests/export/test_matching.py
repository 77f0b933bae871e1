"""Whose cell is whose, and the figures that follow, on cells drawn by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cytoserve import Cells, cells_from_labels
from export.matching import mask_iou, match_cells, quality
from training.annotated import AnnotatedCell

SIDE = 100


def square(x: int, y: int, side: int = 20, class_id: int = 0) -> AnnotatedCell:
    return AnnotatedCell(x, y, np.ones((side, side), bool), class_id)


def found(*squares: AnnotatedCell) -> Cells:
    """The same cells as a pipeline would answer, in the order given."""
    labels = np.zeros((SIDE, SIDE), np.uint16)
    for index, cell in enumerate(squares, start=1):
        height, width = cell.mask.shape
        labels[cell.y : cell.y + height, cell.x : cell.x + width] = index
    class_ids = np.array([cell.class_id for cell in squares], np.int32)
    return cells_from_labels(labels, class_ids, ("a", "b"))


@pytest.mark.parametrize(
    ("answer", "truth", "matches", "iou", "accuracy", "balanced", "recall", "precision"),
    [
        pytest.param([square(0, 0)], [square(0, 0)], 1, 1.0, 1.0, 1.0, 1.0, 1.0, id="the same"),
        pytest.param([square(5, 0)], [square(0, 0)], 1, 15 / 25, 1.0, 1.0, 1.0, 1.0, id="shifted"),
        pytest.param(
            [square(8, 0)], [square(0, 0)], 0, math.nan, math.nan, math.nan, 0, 0, id="too far"
        ),
        pytest.param(
            [square(0, 0), square(30, 0), square(60, 0, class_id=0)],
            [square(0, 0), square(30, 0), square(60, 0, class_id=1)],
            *(3, 1.0, 2 / 3, 0.5, 1.0, 1.0),
            id="the rare class missed: accuracy hardly sees it, balanced accuracy does",
        ),
        pytest.param(
            [square(0, 0), square(50, 50)],
            [square(0, 0)],
            *(1, 1.0, 1.0, 1.0, 1.0, 0.5),
            id="one too many",
        ),
        pytest.param(
            [square(0, 0)],
            [square(0, 0), square(50, 50)],
            *(1, 1.0, 1.0, 1.0, 0.5, 1.0),
            id="one too few",
        ),
        pytest.param(
            [],
            [square(0, 0)],
            *(0, math.nan, math.nan, math.nan, 0.0, math.nan),
            id="none found",
        ),
        pytest.param([], [], 0, *[math.nan] * 5, id="nothing there"),
    ],
)
def test_quality(answer, truth, matches, iou, accuracy, balanced, recall, precision):
    frame = match_cells(found(*answer), truth)
    figures = quality([frame])
    assert len(frame.matches) == matches
    expected = (iou, accuracy, balanced, recall, precision)
    answered = (
        *(figures.iou, figures.accuracy, figures.balanced_accuracy),
        *(figures.recall, figures.precision),
    )
    assert answered == pytest.approx(expected, nan_ok=True, abs=0.02)


def test_an_annotated_cell_is_taken_once_and_by_the_best_scored():
    one = found(square(0, 0), square(50, 50))
    twice = one[np.array([0, 0, 1])]
    frame = match_cells(twice, [square(0, 0), square(50, 50)])
    assert [match.iou for match in frame.matches] == pytest.approx([1.0, 1.0])
    assert (frame.found, frame.annotated) == (3, 2)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        pytest.param(square(0, 0), square(0, 0), 1.0, id="equal"),
        pytest.param(square(0, 0), square(10, 10), 100 / 700, id="corner"),
        pytest.param(square(0, 0), square(20, 0), 0.0, id="side by side"),
        pytest.param(square(0, 0, 40), square(10, 10, 20), 400 / 1600, id="inside"),
    ],
)
def test_mask_iou(one, other, expected):
    assert mask_iou(one, other) == mask_iou(other, one) == pytest.approx(expected)
