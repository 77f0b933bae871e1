"""Found cells matched with annotated ones, and the threshold that is best on validation frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torchmetrics.detection import PanopticQuality

from cytoserve import Cells, cells_from_labels
from training.datasets.annotated import AnnotatedCell
from training.evaluation import (
    MAX_TOLERANCE,
    PICTURE,
    THRESHOLDS,
    ScoredFrame,
    choose_score_threshold,
    choose_threshold,
    draw_threshold,
    mask_iou,
    match_cells,
    quality,
)

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


def frame(right: Sequence[float], wrong: Sequence[float], annotated: int) -> ScoredFrame:
    """Scores of cells that stand for annotated ones, and of others."""
    scores = np.array([*right, *wrong], np.float32)
    return scores, np.arange(len(scores)) < len(right), annotated


@pytest.mark.parametrize(
    ("frames", "value", "f1"),
    [
        pytest.param([frame([0.9], [0.3], 1)], 0.58, 1.0, id="the middle of 0.30 to 0.88"),
        pytest.param([frame([0.9] * 3, [], 3)], 0.44, 1.0, id="nothing wrong: below the cells"),
        pytest.param([frame([0.9, 0.2], [0.3] * 9, 2)], 0.58, 2 / 3, id="a cell is not worth nine"),
        pytest.param([frame([0.9, 0.2], [0.3], 2)], 0.1, 0.8, id="but worth one"),
        pytest.param(
            [frame([0.9], [], 1), frame([], [0.5], 0)], 0.68, 1.0, id="an empty frame counts"
        ),
        pytest.param([frame([], [0.5], 4)], 0.5, 0.0, id="nothing right at any threshold"),
        pytest.param([frame([], [], 4)], 0.5, 0.0, id="nothing found"),
    ],
)
def test_the_middle_of_the_best_thresholds_is_chosen(
    frames: list[ScoredFrame], value: float, f1: float
) -> None:
    chosen = choose_score_threshold(frames)
    assert chosen.value == pytest.approx(value, abs=0.021)
    assert max(chosen.best) == pytest.approx(f1, abs=1e-4)
    assert (chosen.metric, chosen.thresholds) == ("F1", THRESHOLDS)


@pytest.mark.parametrize("seed", range(4))
def test_the_curve_is_that_of_counting_cells_one_by_one(seed: int) -> None:
    random = np.random.default_rng(seed)
    frames = []
    for _ in range(5):
        right = np.round(random.beta(4, 2, random.integers(0, 30)), 1)  # some equal a threshold
        frames.append(frame(right, random.beta(2, 4, 20), len(right) + int(random.integers(5))))
    chosen = choose_score_threshold(iter(frames))
    for index, threshold in enumerate(THRESHOLDS):
        true = found = annotated = 0
        for scores, matched, count in frames:
            annotated += count
            for score, right in zip(scores, matched, strict=True):
                found += bool(score > np.float32(threshold))
                true += bool(score > np.float32(threshold) and right)
        assert chosen.recall[index] == pytest.approx(true / annotated, abs=1e-4)
        assert chosen.precision[index] == pytest.approx(true / found if found else 1, abs=1e-4)
        f1 = true / (true + (found - true) / 2 + (annotated - true) / 2)
        assert chosen.best[index] == pytest.approx(f1, abs=1e-4)
    assert chosen.best[THRESHOLDS.index(chosen.value)] >= max(chosen.best) - MAX_TOLERANCE - 1e-4


def test_only_the_stretch_around_the_best_threshold_counts() -> None:
    """A second stretch that is nearly as good does not draw the middle into the valley."""
    matched = np.full(len(THRESHOLDS), 50)
    matched[5:8], matched[30:35] = 90, 90
    matched[31] = 91
    found = np.full(len(THRESHOLDS), 100)
    chosen = choose_threshold("Dice", matched, found, 100)
    assert (chosen.value, chosen.metric) == (THRESHOLDS[31], "Dice")


@pytest.mark.parametrize("best", [10, 20], ids=["first", "last"])
def test_a_difference_within_the_tolerance_is_none(best: int) -> None:
    matched = np.full(len(THRESHOLDS), 500)
    matched[10:21] = 900
    matched[best] = 903
    found = np.full(len(THRESHOLDS), 1000)
    assert choose_threshold("F1", matched, found, 1000).value == THRESHOLDS[15]


@pytest.mark.parametrize(
    ("cells", "value"),
    [
        pytest.param(60, 0.34, id="one cell of sixty: the middle of 0.02 to 0.68"),
        pytest.param(10, 0.14, id="one cell of ten is a tenth: the middle of 0.02 to 0.28"),
    ],
)
def test_one_cell_of_many_says_nothing(cells: int, value: float) -> None:
    chosen = choose_score_threshold([frame([0.3, *[0.7] * (cells - 1)], [], cells)])
    assert chosen.value == pytest.approx(value, abs=0.021)


def test_without_annotated_cells_there_is_nothing_to_choose_by() -> None:
    with pytest.raises(ValueError, match="by annotated cells; the validation frames have none"):
        choose_score_threshold([frame([], [0.5], 0)])


def test_the_curve_is_drawn(tmp_path: Path) -> None:
    chosen = choose_score_threshold([frame([0.9, 0.7], [0.3], 3)])
    file = draw_threshold(chosen, tmp_path)
    assert file == tmp_path / PICTURE
    assert cv2.imread(str(file)).shape == (480, 720, 3)
