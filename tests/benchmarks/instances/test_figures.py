"""What `benchmarks.instances` computes, prints and draws of answers that are already there."""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest

from benchmarks.harness.step_statistics import RequestSeconds
from benchmarks.instances.__main__ import speed_figures, step_figures
from benchmarks.instances.memory import grid_boxes
from benchmarks.instances.pictures import annotated_cells, draw_columns, save_columns
from benchmarks.instances.quality import instance_quality
from benchmarks.instances.tables import instances_page
from cytoserve.patches import regions
from training.datasets.annotated import AnnotatedCell, AnnotatedFrame

NAMES = ("spread", "round")


def square(x: int, y: int, class_id: int = 0) -> AnnotatedCell:
    return AnnotatedCell(x, y, np.ones((20, 20), bool), class_id)


def frame(path, *cells: AnnotatedCell) -> AnnotatedFrame:
    return AnnotatedFrame(path / "field.png", 100, 120, cells)


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 4096, (100, 120)).astype(np.uint16)


def test_annotated_cells_lie_on_the_frame_as_they_were_annotated(tmp_path):
    lower = AnnotatedCell(30, 40, np.tri(25, dtype=bool), 1)
    cells = annotated_cells(frame(tmp_path, square(0, 0), lower, square(35, 45)), NAMES)
    assert cells.counts() == {"spread": 2, "round": 1}
    claims = regions(cells.boxes, cells.patches, cells.frame_shape)  # overlaps stay
    for claim, cell in zip(claims, (square(0, 0), lower, square(35, 45)), strict=True):
        assert (claim.columns.start, claim.rows.start) == (cell.x, cell.y)
        np.testing.assert_array_equal(claim.mask, cell.mask)


def test_no_annotated_cell_is_an_empty_answer(tmp_path):
    assert len(annotated_cells(frame(tmp_path), NAMES)) == 0


def test_quality_over_frames(tmp_path):
    both = frame(tmp_path, square(0, 0), square(50, 50, 1))
    found = annotated_cells(both, NAMES)
    quality = instance_quality([(found, both.cells), (found[:1], (square(0, 0),))], len(NAMES))
    assert (quality.annotated, quality.found) == (1.5, 1.5)
    assert (quality.confidence, quality.mean_average_precision) == pytest.approx((1.0, 1.0))
    assert list(quality.average_precision) == [f"0.{number}" for number in range(50, 100, 5)]
    assert (quality.ap50, quality.recall, quality.precision) == pytest.approx((1.0, 1.0, 1.0))
    assert (quality.f1, quality.panoptic_quality) == pytest.approx((1.0, 1.0))


def test_half_of_the_cells_found_is_six_of_eleven_points(tmp_path):
    both = frame(tmp_path, square(0, 0), square(50, 50))
    found = annotated_cells(both, NAMES)[:1]
    quality = instance_quality([(found, both.cells)], 1)
    assert quality.mean_average_precision == pytest.approx(6 / 11)
    assert quality.ap50 == pytest.approx(51 / 101)
    assert (quality.recall, quality.precision, quality.f1) == pytest.approx((1 / 2, 1, 2 / 3))


def test_no_found_cell_has_no_confidence(tmp_path):
    nothing = annotated_cells(frame(tmp_path), NAMES)
    quality = instance_quality([(nothing, (square(0, 0),))], 1)
    assert math.isnan(quality.confidence)
    assert (quality.found, quality.mean_average_precision, quality.ap50) == (0, 0, 0)
    assert (quality.recall, quality.f1, quality.panoptic_quality) == (0, 0, 0)
    assert math.isnan(quality.precision)


def test_columns_stand_side_by_side(tmp_path, image):
    cells = annotated_cells(frame(tmp_path, square(10, 10), square(60, 30, 1)), NAMES)
    picture = draw_columns(image, {"Truth": cells, "Mask R-CNN": cells[:1]})
    assert picture.dtype == np.uint8
    column = picture.shape[1] // 3
    image_part, truth, found = (picture[:800, k * column : (k + 1) * column] for k in range(3))
    drawn = [(np.ptp(part, axis=2) > 60).mean() for part in (image_part, truth, found)]
    assert drawn[0] == 0  # grey: no outline
    assert 0 < drawn[2] < drawn[1]  # one outline, two outlines


def test_columns_with_legends_of_several_lines_stand_beside_others(tmp_path, image):
    short = annotated_cells(frame(tmp_path, square(10, 10)), NAMES)
    long = replace(short, class_names=("a name that fills a line of the legend " * 2, "another"))
    picture = draw_columns(image, {"Truth": short, "SAM": long})
    assert len(picture) > len(draw_columns(image, {"Truth": short}))


def test_a_figure_is_saved_in_its_colours(tmp_path, image):
    cells = annotated_cells(frame(tmp_path, square(10, 10)), NAMES)
    file = save_columns(tmp_path / "figures", "field", image, {"Truth": cells})
    assert file == tmp_path / "figures" / "field.png"
    written = cv2.imread(str(file))[:, :, ::-1]
    np.testing.assert_array_equal(written, draw_columns(image, {"Truth": cells}))


@pytest.mark.parametrize("count", [1, 2, 42, 500])
def test_grid_boxes_fill_the_frame_side_by_side(count):
    boxes = grid_boxes(count, 2048)
    assert boxes.shape == (count, 4)
    assert boxes.dtype == np.float32
    assert boxes.min() >= 0
    assert boxes.max() <= 2048
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert len({tuple(box) for box in boxes.tolist()}) == count


REQUESTS = [
    RequestSeconds(
        1.0 + extra,
        {
            "maskrcnn_network": 0.7 + extra,
            "sam_encoder": 0.5,
            "sam_decoder": 0.15,
            "sam_cells": 0.05,
        },
    )
    for extra in (0.0, 0.1, 0.4)
]
"""The two took 1.2 s, and 0.8 s passed before the decoder: 0.4 s at the same time."""


def test_step_figures_are_medians():
    figures = step_figures(REQUESTS)
    assert figures["total"] == 1.1
    assert figures["together"] == pytest.approx(0.4)
    assert figures["sum"] == pytest.approx(0.8 + 0.5 + 0.15 + 0.05)
    assert figures["longest_and_decoder"] == pytest.approx(0.8 + 0.15)


def test_ratios_of_seconds():
    seconds = {
        "served": {"maskrcnn": 0.5, "maskrcnn_sam": 1.0},
        "in_process": {"maskrcnn": 0.4, "maskrcnn_sam": 0.8},
        "study_way": {"maskrcnn": 1.0, "maskrcnn_sam": 3.0},
    }
    figures = speed_figures(seconds)
    assert figures["speedup"] == {"maskrcnn": 2.0, "maskrcnn_sam": 3.0}
    assert figures["overhead"] == {"maskrcnn": 1.25, "maskrcnn_sam": 1.25}


@pytest.fixture
def result():
    def quality(found, confidence, precision, at_half, f1):
        return {
            "annotated": 60.4,
            "found": found,
            "confidence": confidence,
            "mean_average_precision": precision,
            "average_precision": {"0.50": at_half},
            **{"ap50": at_half + 0.01, "recall": f1, "precision": f1, "f1": f1},
            "panoptic_quality": f1 / 2,
        }

    seconds = {
        "served": {"maskrcnn": 0.5, "maskrcnn_sam": 1.0},
        "in_process": {"maskrcnn": 0.4, "maskrcnn_sam": 0.8},
        "study_way": {"maskrcnn": 1.0, "maskrcnn_sam": 3.0},
    }
    return {
        "pipelines": {
            "maskrcnn": quality(55.25, 0.7123, 0.2345, 0.5111, 0.8),
            "maskrcnn_sam": quality(55.25, 0.8234, 0.3456, 0.6222, 0.9),
        },
        **speed_figures(seconds),
        "steps": step_figures(REQUESTS),
        "box_prompts": {
            **{"iou": 0.7654, "above_half": 0.91, "box_iou": 0.55, "quality": 0.8, "cells": 302}
        },
        "prompt_cost": {
            **{"prompts": 42, "first": 0.9, "second": 0.05, "second_share": 0.0556},
            **{"together": 0.3, "one_by_one": 1.2, "together_share": 0.25},
            **{"decoder_together": 0.2, "decoder_one_by_one": 0.6, "decoder_share": 0.333},
            **{"served_share": 0.5},
        },
        "memory": [
            {"request": "`sam_prompt`", "side": 2048, "peak_bytes": 2e9, "added_bytes": 3e8}
        ],
        "frames": [{}, {}],
        "timed_frames": ["set03"],
        "prompted_frame": "set13",
        "repeats": 3,
        "score_threshold": 0.25,
        "overlap_threshold": 0.6,
        "class_names": ["cell"],
        "sam_size": "tiny",
        "machine": {"cores": "2"},
    }


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("| cells per image, truth | 60.4 | 8.4 | 41.85 |", id="truth"),
        pytest.param("| found by Mask R-CNN / SAM | 55.2 / 55.2 | 10 | 37.17 |", id="found"),
        pytest.param(
            "| confidence Mask R-CNN / SAM | 0.712 / 0.823 | 0.938 / 0.927 | 0.801 / 0.848 |",
            id="confidence",
        ),
        pytest.param(
            "| mAP Mask R-CNN / SAM | 0.234 / 0.346 | 0.640 / 0.605 | 0.306 / 0.262 |", id="mAP"
        ),
        pytest.param("| AP50 (11 recalls) Mask R-CNN / SAM | 0.511 / 0.622 |  |  |", id="AP50"),
        pytest.param("| AP50 (COCO) Mask R-CNN / SAM | 0.521 / 0.632 |  |  |", id="COCO's AP50"),
        pytest.param("| recall Mask R-CNN / SAM | 0.800 / 0.900 |  |  |", id="recall"),
        pytest.param("| precision Mask R-CNN / SAM | 0.800 / 0.900 |  |  |", id="precision"),
        pytest.param("| F1 Mask R-CNN / SAM | 0.800 / 0.900 |  |  |", id="F1"),
        pytest.param("| PQ Mask R-CNN / SAM | 0.400 / 0.450 |  |  |", id="panoptic quality"),
        pytest.param("| `maskrcnn_sam` | 1.000 | 0.800 | 1.25 | 3.000 | 3.00 |", id="speed"),
        pytest.param("| `sam_encoder` | 0.500 |", id="a step"),
        pytest.param(
            "| Mask R-CNN and SAM's encoder at the same time, at least | 0.400 |", id="together"
        ),
        pytest.param("| mean mask IoU | 0.765 |", id="true boxes"),
        pytest.param("| one request / 42 requests | 0.250 |", id="cost of boxes"),
        pytest.param("| second / first | 0.056 |", id="cost of the second prompt"),
        pytest.param("| `sam_prompt` | 2048 x 2048 | 2000 | 300 |", id="memory"),
    ],
)
def test_the_page_has_our_figures_and_the_study_s(result, line):
    assert line in instances_page(result).splitlines()


def test_figures_that_a_result_lacks_are_a_dash(result):
    for quality in result["pipelines"].values():
        for name in ("ap50", "recall", "precision", "f1", "panoptic_quality"):
            del quality[name]
    lines = instances_page(result).splitlines()
    for title in ("AP50 (COCO)", "recall", "precision", "F1", "PQ"):
        assert f"| {title} Mask R-CNN / SAM | - |  |  |" in lines
