"""Positions on the stage: conventions, inverses, and an independent simulation."""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest

from cytoserve import Cells, InvalidSetting, cells_from_labels
from cytoserve.acquisition import StageTransform

SHAPE = (200, 300)
TURNED = (0.3, -0.4, 0.0, 0.4, 0.3, 0.0)
"""0.5 um per pixel, turned by about 53 degrees."""

AFFINES = [
    pytest.param((0.5, 0.0, 0.0, 0.0, 0.5, 0.0), id="aligned"),
    pytest.param((-0.5, 0.0, 0.0, 0.0, 0.5, 0.0), id="x mirrored"),
    pytest.param((0.5, 0.0, 0.0, 0.0, -0.5, 0.0), id="y mirrored"),
    pytest.param((0.0, 0.5, 0.0, 0.5, 0.0, 0.0), id="transposed"),
    pytest.param(TURNED, id="turned"),
    pytest.param((0.65, 0.01, 7.0, -0.02, 0.64, -9.0), id="as calibrated, with a translation"),
]


def test_the_middle_of_the_frame_is_where_the_stage_is():
    stage = StageTransform(SHAPE, (1000.0, -2000.0), affine=TURNED)
    assert stage.to_stage_um((150, 100)) == pytest.approx([1000, -2000])


def test_without_an_affine_x_is_right_and_y_is_down():
    stage = StageTransform(SHAPE, (1000.0, -2000.0), pixel_size_um=0.5)
    assert stage.to_stage_um([(160, 100), (150, 120)]) == pytest.approx(
        np.array([(1005, -2000), (1000, -1990)])
    )


def test_with_a_region_of_interest_the_middle_is_that_of_the_sensor():
    whole = StageTransform((400, 600), (10.0, 20.0), 0.5)
    part = StageTransform(SHAPE, (10.0, 20.0), 0.5, middle_px=(600 / 2 - 100, 400 / 2 - 50))
    assert part.to_stage_um((7, 9)) == pytest.approx(whole.to_stage_um((107, 59)))


@pytest.mark.parametrize("affine", AFFINES)
def test_to_frame_px_is_the_inverse(affine):
    stage = StageTransform(SHAPE, (3.0, 4.0), affine=affine)
    points = np.random.default_rng(0).uniform(-50, 350, (5, 4, 2))
    assert stage.to_frame_px(stage.to_stage_um(points)) == pytest.approx(points)
    assert stage.to_stage_um(stage.to_frame_px(points)) == pytest.approx(points)


@pytest.mark.parametrize("affine", AFFINES[:4])
def test_boxes_stay_boxes_where_the_camera_is_upright(affine):
    stage = StageTransform(SHAPE, (3.0, 4.0), affine=affine)
    boxes = np.array([[10.0, 20, 50, 30], [0, 0, 300, 200]])
    there = stage.boxes_to_stage_um(boxes)
    assert (there[:, :2] < there[:, 2:]).all()
    assert np.prod(there[:, 2:] - there[:, :2], axis=1) == pytest.approx(
        np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) / 4
    )
    assert stage.boxes_to_frame_px(there) == pytest.approx(boxes)


def test_a_turned_box_holds_the_box():
    stage = StageTransform(SHAPE, (3.0, 4.0), affine=TURNED)
    [box] = stage.boxes_to_stage_um([[10, 20, 50, 30]])
    corners = stage.to_stage_um([(10, 20), (50, 20), (50, 30), (10, 30)])
    assert box == pytest.approx([*corners.min(axis=0), *corners.max(axis=0)])
    assert stage.boxes_to_stage_um(np.zeros((0, 4))).shape == (0, 4)


@pytest.mark.parametrize("affine", AFFINES)
def test_cells_of_a_simulated_sample_lie_where_the_sample_has_them(affine):
    """Draw discs at known places by warping a map of the sample, and find them again."""
    matrix = np.array(affine).reshape(2, 3)[:, :2]
    position = np.array([500.0, 800.0])
    truth = position + np.array([[0, 0], [-40, 21.3], [33.7, -18], [12, 35.5]])
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]] + 0.5
    pixels = np.stack([columns - SHAPE[1] / 2, rows - SHAPE[0] / 2], axis=-1)
    places = position + pixels @ matrix.T  # of every pixel's centre, by the definition
    labels = np.zeros(SHAPE, np.uint16)
    for index, centre in enumerate(truth):
        labels[np.linalg.norm(places - centre, axis=-1) < 6] = index + 1
    kept = np.unique(labels)[1:]
    cells = cells_from_labels(
        np.searchsorted(np.r_[0, kept], labels).astype(np.uint16),
        np.zeros(len(kept), int),
        ("cell",),
    )
    found = cells.to_stage_um(StageTransform(SHAPE, tuple(position), affine=affine))
    pixel_um = math.sqrt(abs(np.linalg.det(matrix)))
    assert np.abs(found.centres_um - truth[kept - 1]).max() < pixel_um
    inside = (found.boxes_um[:, :2] < truth[kept - 1]) & (truth[kept - 1] < found.boxes_um[:, 2:])
    assert inside.all()
    for outline, centre in zip(found.outlines_um, truth[kept - 1], strict=True):
        radii = np.linalg.norm(outline - centre, axis=1)
        assert radii == pytest.approx(6, abs=1.5 * pixel_um)
        middle = cv2.minEnclosingCircle(outline.astype(np.float32))[0]
        assert np.abs(middle - centre).max() < 2 * pixel_um


def test_a_cell_without_pixels_lies_in_the_middle_of_its_box(cells: Cells):
    empty = replace(cells, patches=np.zeros_like(cells.patches))
    stage = StageTransform((60, 80), (0.0, 0.0), 1.0)
    middles = (cells.boxes[:, :2] + cells.boxes[:, 2:]) / 2 - (40, 30)
    assert empty.to_stage_um(stage).centres_um == pytest.approx(middles)
    none = cells[:0].to_stage_um(stage)
    assert (none.centres_um.shape, none.boxes_um.shape, none.outlines_um) == ((0, 2), (0, 4), [])


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({}, id="no pixel size"),
        pytest.param({"pixel_size_um": 0.0}, id="not calibrated"),
        pytest.param({"pixel_size_um": math.nan}, id="NaN"),
        pytest.param({"affine": (1, 1, 0, 1, 1, 0)}, id="not invertible"),
        pytest.param({"pixel_size_um": 1.0, "position_um": (math.nan, 0)}, id="no position"),
        pytest.param({"pixel_size_um": 1.0, "middle_px": (0, math.inf)}, id="no middle"),
    ],
)
def test_unusable_numbers_are_refused(wrong):
    with pytest.raises(InvalidSetting, match="given"):
        StageTransform(**{"frame_shape": SHAPE, "position_um": (0.0, 0.0), **wrong})


def test_the_stage_of_another_frame_is_refused(cells: Cells):
    with pytest.raises(InvalidSetting, match="same frame"):
        cells.to_stage_um(StageTransform(SHAPE, (0.0, 0.0), 1.0))
