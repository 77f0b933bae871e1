"""Figures of the shipped models: what the edge and the foreground count for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.general.measure import (
    Kind,
    KindMatches,
    annotated_pixels,
    dice,
    row_of,
    without_edge,
)
from cytoserve import Cells
from training.datasets.annotated import AnnotatedCell, AnnotatedFrame
from training.evaluation import match_cells

SIDE = 64


def square(x: int, y: int, side: int = 10) -> AnnotatedCell:
    return AnnotatedCell(x, y, np.ones((side, side), bool), 0)


def found(*cells: AnnotatedCell) -> Cells:
    boxes = np.array([cell.box for cell in cells], np.float32).reshape(-1, 4)
    count = len(cells)
    return Cells(
        boxes,
        np.linspace(0.9, 0.5, count, dtype=np.float32),
        np.zeros(count, np.int32),
        np.ones((count, 1), np.float32),
        np.full((count, 28, 28), 255, np.uint8),
        (SIDE, SIDE),
        ("cell",),
        count,
    )


def frame(*cells: AnnotatedCell) -> AnnotatedFrame:
    return AnnotatedFrame(Path("frame.png"), SIDE, SIDE, cells)


@pytest.mark.parametrize(
    ("annotated", "answer", "counted"),
    [
        pytest.param([square(20, 20)], [square(20, 20)], 1, id="right"),
        pytest.param([square(20, 20)], [square(20, 20), square(40, 40)], 2, id="false, inside"),
        pytest.param([square(20, 20)], [square(20, 20), square(0, 40)], 1, id="false, left edge"),
        pytest.param([square(20, 20)], [square(20, 20), square(54, 40)], 1, id="false, right"),
        pytest.param([square(20, 20)], [square(20, 20), square(30, 54)], 1, id="false, bottom"),
        pytest.param([square(0, 20)], [square(0, 20)], 1, id="right, at the edge"),
    ],
)
def test_only_false_cells_at_the_edge_are_left_out(annotated, answer, counted):
    truth = frame(*annotated)
    matches = match_cells(found(*answer), truth.cells)
    assert matches.found == len(answer)
    inner = without_edge(matches, found(*answer), truth)
    assert (inner.found, inner.matches, inner.annotated) == (counted, matches.matches, 1)


def test_figures_are_those_of_all_cells_together():
    truth = frame(square(20, 20), square(40, 40))
    matches = match_cells(found(square(20, 20), square(0, 0)), truth.cells)
    kind = KindMatches(Kind("squares", "folder", "names.txt"), 11.3)
    kind.plain, kind.inner, kind.told = [matches], [matches], [matches]
    kind.dice = [0.5, 1.0]
    row = row_of("both", [kind, kind])
    assert (row.images, row.annotated, row.found) == (2, 4, 4)
    assert (row.recall, row.precision, row.f1) == (0.5, 0.5, 0.5)
    assert (row.dice, row.diameter_px) == (0.75, None)
    assert row_of("one", [kind]).diameter_px == 11.3


def test_foreground_is_compared_with_all_annotated_pixels():
    truth = annotated_pixels(frame(square(0, 0), square(5, 0)))
    assert truth.sum() == 150  # the overlap counts once
    half = truth.copy()
    half[:5] = False
    assert dice(half, truth) == pytest.approx(2 * 75 / 225)
    assert dice(np.zeros_like(truth), np.zeros_like(truth)) == 1.0
