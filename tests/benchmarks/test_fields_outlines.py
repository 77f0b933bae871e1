"""Outlines cut off by boxes, away from the truth, and doubled, on cells drawn by hand."""

from __future__ import annotations

import math
from dataclasses import astuple

import cv2
import numpy as np
import pytest

from benchmarks.fields.outlines import doubled_cells, measure_frame, outline_figures
from cytoserve import Cells
from cytoserve.contract import MASK_SIZE
from training.datasets.annotated import AnnotatedCell

SHAPE = (200, 240)
FINE = 8
"""Samples of a shape per pixel, before it becomes a patch."""


def ellipse(x, y, a, b, angle=0.0):
    """Bool ``[8 H, 8 W]``: a rotated ellipse, in pixels and radians."""
    height, width = SHAPE
    rows, columns = np.mgrid[: height * FINE, : width * FINE] / FINE
    dx, dy = columns - x, rows - y
    along, across = (
        dx * np.cos(angle) + dy * np.sin(angle),
        dy * np.cos(angle) - dx * np.sin(angle),
    )
    return (along / a) ** 2 + (across / b) ** 2 <= 1


def answer(*shapes, boxes=None) -> Cells:
    """Cells of these shapes, in their tight boxes or in given ones, as a network's patches."""
    patches, frames = [], []
    for index, shape in enumerate(shapes):
        if boxes is None:
            rows, columns = np.flatnonzero(shape.any(1)), np.flatnonzero(shape.any(0))
            box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
            box = tuple(side / FINE for side in box)
        else:
            box = boxes[index]
        x0, y0, x1, y1 = (round(side * FINE) for side in box)
        inside = np.pad(shape, 100 * FINE)[
            y0 + 100 * FINE : y1 + 100 * FINE, x0 + 100 * FINE : x1 + 100 * FINE
        ]
        patches.append(
            cv2.resize(255 * inside.astype(np.float32), (MASK_SIZE, MASK_SIZE), interpolation=3)
        )
        frames.append(box)
    number = len(shapes)
    return Cells(
        boxes=np.array(frames, np.float32).reshape(-1, 4),
        scores=np.linspace(1, 0.5, number, dtype=np.float32),
        class_ids=np.zeros(number, np.int32),
        class_probs=np.ones((number, 1), np.float32),
        patches=np.rint(patches).astype(np.uint8).reshape(-1, MASK_SIZE, MASK_SIZE),
        frame_shape=SHAPE,
        class_names=("cell",),
        found=number,
    )


def truth_of(*shapes) -> list[AnnotatedCell]:
    """Pixels whose centre lies in the shape."""
    middle = FINE // 2
    return [AnnotatedCell.cut(shape[middle::FINE, middle::FINE], 0) for shape in shapes]


DISC = ellipse(100, 90, 18, 18)
LONG = ellipse(100, 90, 40, 12, 0.0)
SLANTED = ellipse(100, 90, 40, 10, 0.7)
SMALL = ellipse(100, 90, 5, 5)
LARGE = ellipse(120, 100, 70, 60)
CUT_BY_FRAME = ellipse(4, 90, 18, 18)


@pytest.mark.parametrize(
    ("cells", "share"),
    [
        pytest.param(answer(DISC), 0, id="a disc in its tight box"),
        pytest.param(answer(SMALL), 0, id="a small disc"),
        pytest.param(answer(LARGE), 0, id="a large ellipse"),
        pytest.param(answer(LONG), 0, id="a long cell along its box"),
        pytest.param(answer(SLANTED), 0, id="a long cell across its box"),
        # A chord 9 px from the middle of a disc of radius 18 px.
        pytest.param(
            answer(DISC, boxes=[(82, 72, 109, 108)]),
            2 * 15.6 / (2 * 15.6 + 18 * 2 * (math.pi - math.pi / 3)),
            id="a disc cut off on its right",
        ),
        pytest.param(
            answer(LONG, boxes=[(60, 78, 132, 102)]),
            14.4 / 165,
            id="the narrow end of a long cell cut off",
        ),
        *(
            pytest.param(
                answer(ellipse(100 + part, 90, 18, 18), boxes=[(82, 72, 109 + part, 108)]),
                2 * 15.6 / (2 * 15.6 + 18 * 2 * (math.pi - math.pi / 3)),
                id=f"an edge {part:g} px from a pixel's border",
            )
            for part in (0.25, 0.5, 0.75)
        ),
        pytest.param(answer(DISC, boxes=[(70, 60, 130, 120)]), 0, id="a box that is too large"),
        pytest.param(
            answer(CUT_BY_FRAME, boxes=[(0, 72, 22, 108)]), 0, id="a cell cut by the frame"
        ),
        pytest.param(
            answer(CUT_BY_FRAME, boxes=[(-14, 72, 22, 108)]), 0, id="a box beyond the frame"
        ),
        pytest.param(answer(), math.nan, id="no cell"),
    ],
)
def test_share_of_the_outline_along_the_own_box(cells, share):
    figures = outline_figures([measure_frame(cells, [])])
    assert figures.along_box == pytest.approx(share, abs=0.03, nan_ok=True)


@pytest.mark.parametrize(
    ("cells", "truth", "expected"),
    [
        pytest.param(answer(DISC), truth_of(DISC), (0.0, 0.0), id="the same"),
        pytest.param(
            # On average a shift of 2 px moves a circle's outline by 2 * 2 / pi.
            *(answer(ellipse(102, 90, 18, 18)), truth_of(DISC), (4 / math.pi, 4 / math.pi)),
            id="shifted by 2 px",
        ),
        pytest.param(
            *(answer(ellipse(100, 90, 15, 15)), truth_of(DISC), (3.0, 3.0)), id="3 px too small"
        ),
        pytest.param(
            # A third of the annotated outline is 5.9 px away on average, 0.29 of the found one 5.3.
            *(answer(DISC, boxes=[(82, 72, 109, 108)]), truth_of(DISC), (1.55, 1.96)),
            id="cut off: the annotated outline sees more of it",
        ),
        pytest.param(
            *(answer(CUT_BY_FRAME), truth_of(CUT_BY_FRAME), (0.0, 0.0)),
            id="cut by the frame, whose border is not measured",
        ),
        pytest.param(answer(SMALL), truth_of(SMALL), None, id="smaller than 20 px"),
        pytest.param(answer(DISC), truth_of(LARGE), None, id="no match"),
        pytest.param(answer(DISC), [], None, id="none annotated"),
        pytest.param(answer(), truth_of(DISC), None, id="none found"),
        pytest.param(answer(), [], None, id="nothing there"),
    ],
)
def test_distance_to_the_truth(cells, truth, expected):
    figures = outline_figures([measure_frame(cells, truth)])
    found = (figures.to_truth_px, figures.from_truth_px)
    assert figures.measured == (expected is not None)
    # A pixel's border is up to half a pixel away from the shape.
    assert found == pytest.approx(expected or (math.nan, math.nan), abs=0.3, nan_ok=True)


APART, NEAR, INSIDE = ellipse(40, 40, 18, 18), ellipse(110, 90, 18, 18), ellipse(102, 92, 8, 8)


@pytest.mark.parametrize(
    ("cells", "doubled"),
    [
        pytest.param(answer(DISC, APART), [False, False], id="apart"),
        pytest.param(answer(DISC, DISC), [True, True], id="the same twice"),
        pytest.param(answer(DISC, INSIDE), [True, True], id="a part of it again"),
        pytest.param(answer(DISC, NEAR), [False, False], id="neighbours that overlap by 0.65"),
        pytest.param(
            answer(DISC, APART, DISC, INSIDE), [True, False, True, True], id="one of four apart"
        ),
        pytest.param(
            answer(DISC, DISC, boxes=[(82, 72, 118, 108), (-60, -60, -24, -24)]),
            [False, False],
            id="one beyond the frame",
        ),
        pytest.param(answer(), [], id="no cell"),
    ],
)
def test_doubled_cells(cells, doubled):
    assert doubled_cells(cells).tolist() == doubled


def test_frames_count_together():
    frames = [
        measure_frame(answer(DISC, DISC), truth_of(DISC)),
        measure_frame(answer(), []),
        measure_frame(answer(APART, LARGE), truth_of(APART, LARGE)),
    ]
    figures = outline_figures(frames)
    assert (figures.cells, figures.measured, figures.doubled) == (4, 3, 0.5)
    assert max(figures.to_truth_px, figures.from_truth_px) < 0.3


def test_no_frame_has_no_figures():
    assert astuple(outline_figures([])) == pytest.approx((*[math.nan] * 4, 0, 0), nan_ok=True)
