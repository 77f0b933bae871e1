"""Whose cell is whose, and the figures that follow, on cells drawn by hand."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from torchmetrics.detection import PanopticQuality

from cytoserve import Cells, cells_from_labels
from training.datasets.annotated import AnnotatedCell
from training.evaluation.matching import mask_iou, match_cells, quality

SIDE = 100


def square(x: int, y: int, side: int = 20, class_id: int = 0) -> AnnotatedCell:
    return AnnotatedCell(x, y, np.ones((side, side), bool), class_id)


def found(*squares: AnnotatedCell) -> Cells:
    """Return the squares as a pipeline would answer them, in the order given."""
    labels = np.zeros((SIDE, SIDE), np.uint16)
    for index, cell in enumerate(squares, start=1):
        height, width = cell.mask.shape
        labels[cell.y : cell.y + height, cell.x : cell.x + width] = index
    class_ids = np.array([cell.class_id for cell in squares], np.int32)
    return cells_from_labels(labels, class_ids, ("a", "b"))


NOTHING = {
    **dict.fromkeys(("iou", "accuracy", "balanced_accuracy"), math.nan),
    **dict.fromkeys(("recall", "precision", "f1", "panoptic_quality"), math.nan),
}
NO_MATCH = NOTHING | dict.fromkeys(("recall", "precision", "f1", "panoptic_quality"), 0.0)
PERFECT = dict.fromkeys(NOTHING, 1.0)


@pytest.mark.parametrize(
    ("answer", "truth", "matches", "expected"),
    [
        pytest.param([square(0, 0)], [square(0, 0)], 1, PERFECT, id="the same"),
        pytest.param(
            [square(5, 0)],
            [square(0, 0)],
            *(1, PERFECT | {"iou": 15 / 25, "panoptic_quality": 15 / 25}),
            id="shifted",
        ),
        pytest.param([square(8, 0)], [square(0, 0)], 0, NO_MATCH, id="too far"),
        pytest.param(
            [square(0, 0), square(30, 0), square(60, 0, class_id=0)],
            [square(0, 0), square(30, 0), square(60, 0, class_id=1)],
            *(3, PERFECT | {"accuracy": 2 / 3, "balanced_accuracy": 0.5}),
            id="the rare class missed: accuracy hardly sees it, balanced accuracy does",
        ),
        pytest.param(
            [square(0, 0), square(50, 50)],
            [square(0, 0)],
            *(1, PERFECT | {"precision": 1 / 2, "f1": 2 / 3, "panoptic_quality": 2 / 3}),
            id="one too many",
        ),
        pytest.param(
            [square(0, 0)],
            [square(0, 0), square(50, 50)],
            *(1, PERFECT | {"recall": 1 / 2, "f1": 2 / 3, "panoptic_quality": 2 / 3}),
            id="one too few",
        ),
        pytest.param(
            [AnnotatedCell(0, 0, np.ones((10, 20), bool), 0)],
            [square(0, 0)],
            *(1, PERFECT | {"iou": 0.5, "panoptic_quality": 0.0}),
            id="IoU of exactly a half: a match for COCO, none for panoptic quality",
        ),
        pytest.param([], [square(0, 0)], 0, NO_MATCH | {"precision": math.nan}, id="none found"),
        pytest.param([square(0, 0)], [], 0, NO_MATCH | {"recall": math.nan}, id="no cell there"),
        pytest.param([], [], 0, NOTHING, id="nothing there"),
    ],
)
def test_quality(answer, truth, matches, expected):
    frame = match_cells(found(*answer), truth)
    assert len(frame.matches) == matches
    assert asdict(quality([frame])) == pytest.approx(expected, nan_ok=True, abs=0.02)


def test_no_frame_has_no_quality():
    assert asdict(quality([])) == pytest.approx(NOTHING, nan_ok=True)


def random_labels(rng, count: int):
    """A label image of ``count`` discs that cover one another, and the same, each disc moved."""
    rows, columns = np.indices((SIDE, SIDE))
    truth, answer = (np.zeros((SIDE, SIDE), int) for _ in range(2))
    for label in range(1, count + 1):
        (y, x), radius = rng.uniform(0, SIDE, 2), rng.uniform(3, 12)
        truth[np.hypot(rows - y, columns - x) < radius] = label
        y, x, radius = np.array([y, x, radius]) + rng.normal(0, 1.5, 3)
        if rng.random() < 0.85:
            answer[np.hypot(rows - y, columns - x) < radius] = label
    # Numbers without gaps: some discs are covered, some left out.
    return truth, np.unique(answer, return_inverse=True)[1].reshape(answer.shape)


def annotated_of(labels) -> list[AnnotatedCell]:
    return [AnnotatedCell.cut(labels == label, 0) for label in np.unique(labels[labels > 0])]


@pytest.mark.parametrize(
    ("seed", "counts"),
    [
        pytest.param(0, (30,), id="one crowded frame"),
        pytest.param(1, (8, 1, 20), id="three frames"),
        pytest.param(2, (0, 12), id="a frame without cells"),
    ],
)
def test_panoptic_quality_and_f1_are_those_of_torchmetrics(seed, counts):
    rng = np.random.default_rng(seed)
    metric = PanopticQuality({1}, {0}, return_sq_and_rq=True, return_per_class=True)
    frames = []
    for count in counts:
        truth, answer = random_labels(rng, count)
        cells = cells_from_labels(answer, np.zeros(answer.max(), np.int32), ("a",))
        # Category (1 is a cell) and instance of every pixel.
        maps = [np.stack([each > 0, each], -1) for each in (cells.label_image(), truth)]
        metric.update(*(torch.from_numpy(each.astype(int))[None] for each in maps))
        frames.append(match_cells(cells, annotated_of(truth)))
    figures = quality(frames)
    panoptic, segmentation, recognition = metric.compute()[0].tolist()  # things come first
    assert figures.panoptic_quality == pytest.approx(panoptic)
    assert (figures.iou, figures.f1) == pytest.approx((segmentation, recognition))
    assert 0.3 < panoptic < 0.9  # there is something to get wrong


def test_a_match_knows_its_two_cells():
    answer = found(square(50, 50), square(0, 0), square(75, 0))
    frame = match_cells(answer, [square(0, 0), square(75, 2), square(50, 50)])
    pairs = [(match.found_index, match.annotated_index) for match in frame.matches]
    assert pairs == [(0, 2), (1, 0), (2, 1)]


def test_an_annotated_cell_is_taken_once_and_by_the_best_scored():
    one = found(square(0, 0), square(50, 50))
    twice = one[np.array([0, 0, 1])]
    frame = match_cells(twice, [square(0, 0), square(50, 50)])
    assert [match.iou for match in frame.matches] == pytest.approx([1.0, 1.0])
    assert (frame.found, frame.annotated) == (3, 2)


@pytest.mark.parametrize("seed", range(3))
def test_matches_are_those_of_comparing_all_with_all(seed):
    rng = np.random.default_rng(seed)
    truth, answer = random_labels(rng, 25)
    annotated = annotated_of(truth)
    cells = cells_from_labels(answer, np.zeros(answer.max(), np.int32), ("a",))
    expected, taken = [], set()
    for found_index, region in enumerate(cells.regions()):
        cell = AnnotatedCell.cut(region.mask, 0, x=region.columns.start, y=region.rows.start)
        ious = [0 if i in taken else mask_iou(cell, each) for i, each in enumerate(annotated)]
        if max(ious) >= 0.5:
            taken.add(best := int(np.argmax(ious)))
            expected.append((found_index, best))
    matches = match_cells(cells, annotated).matches
    assert [(match.found_index, match.annotated_index) for match in matches] == expected
    assert len(expected) > 5


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
