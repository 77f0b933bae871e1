"""Layers for napari, by its rules for layer data tuples and for places of pixels."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from cytoserve import Foreground, InvalidSetting


def test_cells(cells):
    labels, outlines, centres = cells.to_napari(pixel_size_um=0.5, outlines=True)
    assert [layer[2] for layer in (labels, outlines, centres)] == ["labels", "shapes", "points"]
    for _, options, _ in (labels, outlines, centres):
        assert options["scale"] == (0.5, 0.5)
    np.testing.assert_array_equal(labels[0], cells.label_image())
    assert labels[0].flags.writeable
    assert labels[1]["features"]["index"].tolist() == [1, 2, 3]
    assert labels[1]["features"]["area_um2"][0] == cells.table()["area"][0] / 4
    assert outlines[1]["features"]["class"].tolist() == ["RBC", "WBC", "RBC"]
    for number, (polygon, (row, column)) in enumerate(zip(outlines[0], centres[0], strict=True), 1):
        # OpenCV, too, counts from the middle of the first pixel.
        filled = cv2.fillPoly(
            np.zeros((60, 80), np.uint8), [np.rint(polygon[:, ::-1]).astype(np.int32)], 1
        )
        assert np.mean(filled[cells.label_image() == number]) > 0.95
        assert cells.label_image()[round(row), round(column)] == number


@pytest.mark.parametrize("outlines", [False, True])
def test_nothing_found(cells, outlines):
    for found in (cells[:0], Foreground.from_probability(np.zeros((9, 9), np.uint8))):
        layers = found.to_napari(outlines=outlines)
        assert len(layers) == 2 + outlines
        assert layers[-1][0].shape == (0, 2)
        assert layers[0][1]["scale"] == (1.0, 1.0)


def test_a_cell_without_a_pixel_has_no_place(cells):
    painted = cells.label_image()
    without = replace(cells, labels=np.where(painted == 2, 0, painted).astype(np.uint16))
    _, outlines, centres = without.to_napari(outlines=True)
    for _, options, _ in (outlines, centres):
        assert options["features"]["label"].tolist() == [1, 3]
    assert len(outlines[0]) == len(centres[0]) == 2


def test_foreground_has_the_centres_of_the_pipeline(foreground):
    labels, centres = foreground.to_napari()
    assert labels[0].max() == 3
    np.testing.assert_array_equal(centres[0], foreground.centres[:, ::-1] - 0.5)
    assert centres[1]["features"]["score"].tolist() == foreground.centre_scores.tolist()


def test_an_invalid_pixel_size_is_refused(cells):
    with pytest.raises(InvalidSetting, match="given: 0"):
        cells.to_napari(pixel_size_um=0)
