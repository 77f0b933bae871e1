"""Average precision by hand, and against COCO's own evaluation."""

from __future__ import annotations

import contextlib
import io
import math

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.average_precision import THRESHOLDS, mean_average_precision
from cytoserve import Cells
from cytoserve.contract import MASK_SIZE
from training.annotated import AnnotatedCell
from training.readers.rle import rle_from_cell

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


def pycocotools_precision(answers, class_count):
    """AP by threshold of COCO's evaluation, with 11 points of recall and no limit of cells."""
    truth, results = [], []
    for image, (cells, true) in enumerate(answers, start=1):
        for cell in true:
            rle = rle_from_cell(cell, HEIGHT, WIDTH)
            box = [cell.x, cell.y, *cell.mask.shape[::-1]]
            about = {"area": cell.area, "iscrowd": 0, "bbox": box, "segmentation": rle}
            truth.append({"id": len(truth) + 1, "image_id": image} | about)
            truth[-1]["category_id"] = cell.class_id + 1
        for region, score, class_id in zip(
            cells.regions(), cells.scores, cells.class_ids, strict=True
        ):
            if region.mask.any():
                cell = AnnotatedCell.cut(
                    region.mask, 0, x=region.columns.start, y=region.rows.start
                )
                rle = rle_from_cell(cell, HEIGHT, WIDTH)
            else:
                rle = None
            about = {"image_id": image, "category_id": int(class_id) + 1, "score": float(score)}
            results.append(about | {"segmentation": rle})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": [
                {"id": image, "height": HEIGHT, "width": WIDTH}
                for image in range(1, len(answers) + 1)
            ],
            "annotations": truth,
            "categories": [{"id": c + 1, "name": NAMES[c]} for c in range(class_count)],
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "segm")
        evaluation.params.iouThrs = np.array(THRESHOLDS)
        evaluation.params.recThrs = np.arange(11) / 10
        evaluation.params.maxDets = [10_000]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, 0]  # threshold, recall, class
    known = precision[:, :, precision[0, 0] > -1]
    return dict(zip(THRESHOLDS, known.mean(axis=(1, 2)), strict=True))


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
    pytest.param(
        [([square(2, 0, 0.9), square(0, 0, 0.8)], [square(0, 0), square(4, 0)])],
        # Above 0.8 the first is wrong, the second right: half of the truth at half precision.
        *(1.0, (7 + 3 * 3 / 11) / 10),
        id="of equal overlaps the last is taken, the other is left to the next",
    ),
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
    precision = mean_average_precision(answers, 1)
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
def test_equals_coco_evaluation(answers):
    class_count = 1 + max(cell.class_id for _, true in answers for cell in true)
    ours = mean_average_precision(answers, class_count)
    assert ours == pytest.approx(pycocotools_precision(answers, class_count), abs=1e-9)


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
    precision = mean_average_precision(answers, 2)
    assert list(precision.values()) == pytest.approx([expected] * len(THRESHOLDS), nan_ok=True)
