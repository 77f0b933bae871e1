"""`benchmarks.instances` computes and prints the figures of answers that are already there."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.harness.timing import Speed
from benchmarks.instances.__main__ import instance_quality
from benchmarks.instances.result import (
    FrameFound,
    InstanceQuality,
    InstancesResult,
    PromptedQuality,
    instances_page,
)
from cytoserve import Cells, cells_from_labels
from training.datasets.annotated import AnnotatedCell

NAMES = ("spread", "round")


def square(x: int, y: int, class_id: int = 0) -> AnnotatedCell:
    return AnnotatedCell(x, y, np.ones((20, 20), bool), class_id)


def found_as(*cells: AnnotatedCell) -> Cells:
    """The cells as a certain answer of a pipeline."""
    labels = np.zeros((100, 120), np.uint16)
    for index, cell in enumerate(cells, start=1):
        labels[cell.y : cell.y + 20, cell.x : cell.x + 20] = index
    return cells_from_labels(labels, np.array([c.class_id for c in cells], np.int32), NAMES)


def test_quality_over_frames():
    both = square(0, 0), square(50, 50, 1)
    found = found_as(*both)
    quality = instance_quality([(found, both), (found[:1], (square(0, 0),))], len(NAMES))
    assert (quality.annotated, quality.found) == (1.5, 1.5)
    assert (quality.confidence, quality.mean_average_precision) == pytest.approx((1.0, 1.0))
    assert list(quality.average_precision) == [f"0.{number}" for number in range(50, 100, 5)]
    assert (quality.ap50, quality.recall, quality.precision) == pytest.approx((1.0, 1.0, 1.0))
    assert (quality.f1, quality.panoptic_quality) == pytest.approx((1.0, 1.0))


def test_half_of_the_cells_found_is_six_of_eleven_points():
    both = square(0, 0), square(50, 50)
    quality = instance_quality([(found_as(*both)[:1], both)], 1)
    assert quality.mean_average_precision == pytest.approx(6 / 11)
    assert quality.ap50 == pytest.approx(51 / 101)
    assert (quality.recall, quality.precision, quality.f1) == pytest.approx((1 / 2, 1, 2 / 3))


def test_no_found_cell_has_no_confidence():
    quality = instance_quality([(found_as(), (square(0, 0),))], 1)
    assert math.isnan(quality.confidence)
    assert (quality.found, quality.mean_average_precision, quality.ap50) == (0, 0, 0)
    assert (quality.recall, quality.f1, quality.panoptic_quality) == (0, 0, 0)
    assert math.isnan(quality.precision)


def test_ratios_of_seconds():
    speed = Speed(served=0.5, in_process=0.4, study=1.0)
    assert (speed.speedup, speed.overhead) == (2.0, 1.25)


@pytest.fixture
def result():
    def quality(confidence, precision, at_half, f1):
        return InstanceQuality(
            annotated=60.4,
            found=55.25,
            confidence=confidence,
            mean_average_precision=precision,
            average_precision={"0.50": at_half},
            ap50=at_half + 0.01,
            recall=f1,
            precision=f1,
            f1=f1,
            panoptic_quality=f1 / 2,
        )

    frame = FrameFound(
        name="set03", height=1, width=1, cells=1, found={"maskrcnn": 1}, prompted_iou=None
    )
    return InstancesResult(
        benchmark="instances",
        command="",
        machine={"cores": "2"},
        pipelines={
            "maskrcnn": quality(0.7123, 0.2345, 0.5111, 0.8),
            "maskrcnn_sam": quality(0.8234, 0.3456, 0.6222, 0.9),
        },
        box_prompts=PromptedQuality(
            iou=0.7654, above_half=0.91, box_iou=0.55, quality=0.8, cells=302
        ),
        speed={
            "maskrcnn": Speed(served=0.5, in_process=0.4, study=1.0),
            "maskrcnn_sam": Speed(served=1.0, in_process=0.8, study=3.0),
        },
        frames=(frame, frame),
        timed_frames=("set03",),
        repeats=3,
        score_threshold={"maskrcnn": 0.25, "maskrcnn_sam": 0.25},
        overlap_threshold=0.6,
        class_names=("cell",),
        sam_size="tiny",
    )


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
        pytest.param("| mean mask IoU | 0.765 |", id="true boxes"),
    ],
)
def test_the_page_has_our_figures_and_the_study_s(result, line):
    assert line in instances_page(result).splitlines()


def test_figures_that_a_result_lacks_are_a_dash(result):
    lacking = dict.fromkeys(("ap50", "recall", "precision", "f1", "panoptic_quality"))
    pipelines = {name: replace(each, **lacking) for name, each in result.pipelines.items()}
    lines = instances_page(replace(result, pipelines=pipelines)).splitlines()
    for title in ("AP50 (COCO)", "recall", "precision", "F1", "PQ"):
        assert f"| {title} Mask R-CNN / SAM | - |  |  |" in lines
