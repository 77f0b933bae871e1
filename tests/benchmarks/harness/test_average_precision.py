"""Average precision by hand, and against plain arithmetic on whole masks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.harness.average_precision import (
    THRESHOLDS,
    ap50,
    encode_frame,
    mean_average_precision,
)
from cytoserve import Cells
from cytoserve.contract import MASK_SIZE
from training.datasets.annotated import AnnotatedCell

HEIGHT, WIDTH = 90, 130
NAMES = ("spread", "round")

Square = tuple[float, float, float, int]
"""x, y, score (of annotated ones: unused), class."""


def square(x: int, y: int, score: float = 1.0, class_id: int = 0) -> Square:
    return x, y, score, class_id


def annotated(cells, side=20):
    mask = np.ones((side, side), bool)
    return tuple(AnnotatedCell.cut(mask, c, x=int(x), y=int(y)) for x, y, _, c in cells)


def found(cells, side=20, empty=()):
    x, y, scores, class_ids = np.array(cells, float).reshape(-1, 4).T
    patches = np.full((len(cells), MASK_SIZE, MASK_SIZE), 255, np.uint8)
    patches[list(empty)] = 0
    return Cells(
        np.stack([x, y, x + side, y + side], axis=1).astype(np.float32),
        scores.astype(np.float32),
        class_ids.astype(np.int32),
        np.eye(len(NAMES), dtype=np.float32)[class_ids.astype(int)],
        patches,
        (HEIGHT, WIDTH),
        NAMES,
        len(cells),
    )


def encoded(answers):
    return [encode_frame(cells, true) for cells, true in answers]


def hits(cells, true, threshold):
    """Whether each found cell of one class and frame is right, the best-scored first."""
    truth = []
    for cell in true:
        mask = np.zeros((HEIGHT, WIDTH), bool)
        height, width = cell.mask.shape
        mask[cell.y : cell.y + height, cell.x : cell.x + width] = cell.mask
        truth.append(mask)
    free, right = set(range(len(truth))), np.zeros(len(cells), bool)
    masks = list(cells.masks())
    for index in np.argsort(-cells.scores, kind="stable"):
        overlaps = {
            other: (masks[index] & truth[other]).sum() / (masks[index] | truth[other]).sum()
            for other in free
        }
        best = max(overlaps, key=lambda other: (overlaps[other], other), default=None)
        if best is not None and overlaps[best] >= threshold:
            right[index] = True
            free.remove(best)
    return right


def plain_average_precision(answers, class_id, threshold, points):
    """Return one class's precision at ``points`` recalls, each the best from there on."""
    frames = [
        (cells[cells.class_ids == class_id], [cell for cell in true if cell.class_id == class_id])
        for cells, true in answers
    ]
    scores = np.concatenate([cells.scores for cells, _ in frames])
    right = np.concatenate([hits(cells, true, threshold) for cells, true in frames])
    right = np.cumsum(right[np.argsort(-scores, kind="stable")])
    precision = right / np.arange(1, len(right) + 1)
    total = sum(len(true) for _, true in frames)
    # In whole numbers: 3 of 10 cells are a recall of 0.3, whatever 0.3 is in binary.
    reached = [right * (points - 1) >= point * total for point in range(points)]
    return np.mean([precision[enough].max(initial=0) for enough in reached])


def plain_mean(answers, threshold, points):
    classes = {cell.class_id for _, true in answers for cell in true}
    return np.mean([plain_average_precision(answers, c, threshold, points) for c in classes])


def many(seed: int, frames: int, classes: int, scores: int):
    """Frames of scattered squares, found ones shifted, doubled, missed or made up; tied scores."""
    rng = np.random.default_rng(seed)
    answers = []
    for _ in range(frames):
        true, seen = [], []
        for x in range(0, WIDTH - 30, 25):
            for y in range(0, HEIGHT - 30, 25):
                class_id = int(rng.integers(classes))
                if rng.random() < 0.8:
                    true.append(square(x, y, class_id=class_id))
                for _ in range(int(rng.integers(3))):
                    dx, dy = rng.integers(-3, 4, 2)
                    score = (1 + rng.integers(scores)) / scores
                    seen.append(square(max(0, x + dx), max(0, y + dy), score, class_id))
        order = np.argsort([-cell[2] for cell in seen], kind="stable")
        answers.append((found([seen[index] for index in order]), annotated(true)))
    return answers


ROW = [square(25 * column, 0, 0.9 - column / 10) for column in range(5)]
LOWER = [square(25 * column, 30) for column in range(5)]
CASES = [
    pytest.param([(ROW, ROW)], 1.0, 1.0, id="perfect"),
    pytest.param([(ROW[:1], ROW)], 3 / 11, 3 / 11, id="one of five: recall 0, 0.1 and 0.2"),
    pytest.param([(ROW[:3], ROW)], 7 / 11, 7 / 11, id="three of five reach recall 0.6"),
    # A recall of 0.3 to the last bit, though 3 * 0.1 is more than 0.3.
    pytest.param([(ROW[:3], [*ROW, *LOWER])], 4 / 11, 4 / 11, id="three of ten reach recall 0.3"),
    pytest.param([([square(0, 60), *ROW], ROW)], 5 / 6, 5 / 6, id="the best-scored one is wrong"),
    pytest.param([([*ROW, square(0, 60, 0.1)], ROW)], 1.0, 1.0, id="the worst-scored one is wrong"),
    pytest.param([([ROW[0], ROW[0]], ROW[:1])], 1.0, 1.0, id="a duplicate after"),
    pytest.param(
        [([ROW[0], ROW[0], ROW[1]], ROW[:2])],
        *((6 + 5 * 2 / 3) / 11, (6 + 5 * 2 / 3) / 11),
        id="a duplicate between",
    ),
    # 16/24 = 0.67 of the rows overlap: right at 0.50 to 0.65 only.
    pytest.param([([square(4, 0)], ROW[:1])], 1.0, 0.4, id="shifted by 4 of 20 px"),
    # 15/25 = 0.6 to the last bit.
    pytest.param([([square(5, 0)], ROW[:1])], 1.0, 0.3, id="IoU on a threshold passes"),
    pytest.param([([square(7, 0)], ROW[:1])], 0.0, 0.0, id="IoU 0.48 is none"),
    pytest.param([(ROW[:1], ROW[:1]), ([], ROW[1:2])], 6 / 11, 6 / 11, id="a frame without finds"),
    pytest.param(
        [([square(0, 0, 0.9)], []), ([square(0, 0, 0.5)], ROW[:1])],
        *(0.5, 0.5),
        id="a find in a frame without truth counts against the others",
    ),
    pytest.param(
        [([square(0, 0, 0.5), square(25, 0, 0.5)], ROW[1:2])],
        *(0.5, 0.5),
        id="a tie: the first comes first",
    ),
    pytest.param(
        [([square(0, 0, 0.5)], ROW[:1]), ([square(0, 0, 0.5)], [])],
        *(1.0, 1.0),
        id="a tie between frames: the earlier comes first",
    ),
]


@pytest.mark.parametrize(("frames", "at_50", "mean"), CASES)
def test_average_precision(frames, at_50, mean):
    answers = [(found(cells), annotated(true)) for cells, true in frames]
    precision = mean_average_precision(encoded(answers), 1)
    assert tuple(precision) == THRESHOLDS
    assert precision[0.5] == pytest.approx(at_50)
    assert np.mean(list(precision.values())) == pytest.approx(mean)


@pytest.mark.parametrize(
    "answers",
    [
        *(
            pytest.param([(found(c), annotated(t)) for c, t in case.values[0]], id=case.id)
            for case in CASES
        ),
        pytest.param(many(seed=0, frames=1, classes=1, scores=1000), id="one crowded frame"),
        pytest.param(many(seed=1, frames=6, classes=1, scores=1000), id="six frames"),
        pytest.param(many(seed=2, frames=6, classes=1, scores=3), id="three scores, many ties"),
        pytest.param(many(seed=3, frames=4, classes=2, scores=50), id="two classes"),
    ],
)
def test_equals_plain_arithmetic(answers):
    class_count = 1 + max(cell.class_id for _, true in answers for cell in true)
    precision = mean_average_precision(encoded(answers), class_count)
    expected = {threshold: plain_mean(answers, threshold, 11) for threshold in THRESHOLDS}
    assert precision == pytest.approx(expected, abs=1e-9)
    at_half = plain_mean(answers, 0.5, 101)
    # COCO's 101 recalls are not whole hundredths to the last bit: one point may differ.
    assert ap50(encoded(answers), class_count) == pytest.approx(at_half, abs=1 / 101)


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        pytest.param([(ROW, ROW)], 1.0, id="perfect"),
        pytest.param([(ROW[:2], ROW[:4])], 51 / 101, id="half of the cells: recalls 0 to 0.5"),
        pytest.param([(ROW[:1], ROW[:3])], 34 / 101, id="one of three: recalls 0 to 0.33"),
        pytest.param([([square(7, 0)], ROW[:1])], 0.0, id="IoU 0.48 is none"),
        pytest.param([([], ROW)], 0.0, id="none found"),
        pytest.param([([], []), (ROW, ROW)], 1.0, id="a frame without cells, rightly empty"),
        pytest.param([(ROW, [])], math.nan, id="no truth"),
        pytest.param([([], [])], math.nan, id="nothing there, nothing found"),
        pytest.param([], math.nan, id="no frame"),
    ],
)
def test_ap50_reads_precision_at_101_recalls(frames, expected):
    answers = [(found(cells), annotated(true)) for cells, true in frames]
    assert ap50(encoded(answers), 1) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        pytest.param([], math.nan, id="no frame"),
        pytest.param([(found([]), ())], math.nan, id="nothing there, nothing found"),
        pytest.param([(found(ROW), ())], math.nan, id="no truth"),
        pytest.param([(found([]), annotated(ROW))], 0.0, id="none found"),
        pytest.param([(found(ROW, empty=range(5)), annotated(ROW))], 0.0, id="empty masks"),
        pytest.param(
            [(found([square(0, 0, 1, 1)]), annotated([square(0, 0, 1, 0)]))], 0.0, id="wrong class"
        ),
        pytest.param(
            [(found([square(0, 0), square(30, 0, 1, 1)]), annotated([square(0, 0)]))],
            1.0,
            id="a class that is not annotated is left out, as COCO does",
        ),
    ],
)
def test_edges(answers, expected):
    precision = mean_average_precision(encoded(answers), 2)
    assert list(precision.values()) == pytest.approx([expected] * len(THRESHOLDS), nan_ok=True)


def test_more_cells_than_coco_counts():
    """COCO's own limit is 100 cells per frame."""
    cells = [square(x, y, 1 - 0.001 * x) for x in range(0, 120, 6) for y in range(0, 84, 6)]
    assert len(cells) > 100
    answers = encoded([(found(cells, side=5), annotated(cells, side=5))])
    assert ap50(answers, 1) == pytest.approx(1.0)


def test_nothing_is_printed(capsys):
    ap50(encoded([(found(ROW), annotated(ROW))]), 1)
    assert capsys.readouterr() == ("", "")
