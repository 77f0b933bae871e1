"""The files of a foreground, read back."""

from __future__ import annotations

import csv
import io
import tracemalloc

import cv2
import numpy as np
import pytest
import tifffile
from pycocotools.coco import COCO

from cytoserve import Foreground
from cytoserve.contract import PIPELINES
from cytoserve.outputs import (
    CELLS_OUTPUTS,
    FOREGROUND_OUTPUTS,
    encode_output,
    outputs,
)
from cytoserve.outputs.coco import coco_foreground_json
from cytoserve.outputs.ome_tiff import mask_tiff, probability_tiff
from cytoserve.outputs.source import Source
from cytoserve.outputs.tables import summary_csv, table_csv
from cytoserve.overlay import COLOURS, DISPLAY_PERCENTILES, SIDES, draw_foreground, frame_picture

SOURCE = Source("a/a.png")


def rows(content):
    return list(csv.DictReader(io.StringIO(content.decode("utf-8"), newline="")))


@pytest.mark.parametrize("kind", FOREGROUND_OUTPUTS)
@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize("shape", [(60, 80), (7, 1), (1, 1)])
def test_every_output_of_plain_foregrounds(kind, value, shape):
    plain = Foreground.from_probability(np.full(shape, value, np.uint8))
    assert encode_output(kind, np.zeros(shape, np.uint8), plain, SOURCE)


@pytest.mark.parametrize("name", PIPELINES)
def test_kinds_by_pipeline(name):
    semantic = PIPELINES[name].is_semantic
    assert outputs(PIPELINES[name]) is (FOREGROUND_OUTPUTS if semantic else CELLS_OUTPUTS)


def test_mask_and_probability(foreground, frame):
    mask = tifffile.imread(io.BytesIO(mask_tiff(frame, foreground, SOURCE)))
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, np.uint8(255) * foreground.mask)
    probability = tifffile.imread(io.BytesIO(probability_tiff(frame, foreground, SOURCE)))
    assert probability.dtype == np.uint8
    np.testing.assert_array_equal(probability, foreground.probability)


def test_table(foreground, frame):
    found = rows(table_csv(frame, foreground, SOURCE))
    intensities = ["intensity_mean", "intensity_min", "intensity_max"]
    assert list(found[0]) == ["image", *foreground.table(), *intensities]
    assert [row["centres"] for row in found] == ["2", "1", "0"]
    assert float(found[2]["area"]) == 100
    assert float(found[2]["mean_probability"]) == pytest.approx(150 / 255)


def test_large_counts_are_exact():
    whole = Foreground.from_probability(np.full((2501, 4001), 255, np.uint8))
    (row,) = rows(table_csv(np.broadcast_to(7, whole.frame_shape), whole, SOURCE))
    assert (row["area"], row["bbox-3"]) == ("10006501", "4001")
    assert row["equivalent_diameter_area"] == "3569.408"


def test_summary(foreground, frame):
    (row,) = rows(summary_csv(frame, foreground, SOURCE))
    assert (row["image"], row["class"], row["threshold"]) == ("a/a.png", "nuclei", "0.5")
    assert float(row["area_fraction"]) == pytest.approx(foreground.area_fraction)
    assert float(row["confluency"]) == pytest.approx(foreground.confluency, abs=1e-4)
    assert (row["components"], row["nuclei"]) == ("3", "3")
    without = Foreground.from_probability(foreground.probability)
    assert rows(summary_csv(frame, without, SOURCE))[0]["nuclei"] == ""


def test_coco_is_what_pycocotools_reads(foreground, frame, tmp_path, capsys):
    path = tmp_path / "a.json"
    path.write_bytes(coco_foreground_json(frame, foreground, SOURCE))
    dataset = COCO(str(path))
    assert [each["name"] for each in dataset.loadCats(dataset.getCatIds())] == ["nuclei"]
    annotations = dataset.loadAnns(dataset.getAnnIds())
    labels = foreground.label_image()
    assert len(annotations) == 3
    for number, annotation in enumerate(annotations, 1):
        np.testing.assert_array_equal(dataset.annToMask(annotation), labels == number)
        assert annotation["area"] == (labels == number).sum()
        x, y, width, height = annotation["bbox"]
        assert (labels[y : y + height, x : x + width] == number).sum() == annotation["area"]
    assert annotations[2]["bbox"] == [5, 50, 20, 5]
    assert annotations[2]["score"] == pytest.approx(150 / 255, abs=1e-6)


def near(picture, x, y, reach):
    column, row = (round(8 * place - 0.5) for place in (x, y))
    part = picture[row - reach : row + reach + 1, column - reach : column + reach + 1]
    return part.reshape(-1, 3)


def test_overlay_draws_outlines_and_centres(foreground, frame):
    picture = draw_foreground(frame, foreground)
    edge, point = COLOURS[:2]
    for x, y in ((5, 52.5), (15, 50), (24.9, 52.5)):  # sides of the bar
        assert (near(picture, x, y, 6) == edge).all(axis=1).any()
    for x, y in foreground.centres:
        assert (near(picture, x, y, 1) == point).all()
    plain = draw_foreground(frame, Foreground.from_probability(foreground.probability * 0))
    assert not (plain[:480] == edge).all(axis=2).any()
    assert not (plain == point).all(axis=2).any()


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((9000, 200), id="long"),
        pytest.param((17_000, 30, 3), id="longer-than-a-request"),
        pytest.param((30, 17_000, 3), id="wider-than-a-request"),
        pytest.param((5000, 4100), id="bands-that-do-not-fit"),
    ],
)
def test_a_large_frame_is_reduced_in_bands_as_in_one(shape):
    random = np.random.default_rng(0)
    frame = random.integers(0, 250, (*(side // 50 + 1 for side in shape[:2]), *shape[2:]))
    frame = cv2.resize(frame.astype(np.uint8), shape[1::-1])
    picture = frame_picture(frame)
    assert max(picture.shape[:2]) == SIDES[1]
    stride = max(shape) // 1024
    low, high = np.percentile(frame[::stride, ::stride], DISPLAY_PERCENTILES)
    whole = np.clip((frame.astype(np.float32) - low) * (255 / (high - low)), 0, 255)
    once = cv2.resize(whole, picture.shape[1::-1], interpolation=cv2.INTER_AREA)
    once = once.reshape(*once.shape[:2], -1)
    assert np.abs(picture - once).max() <= 2


def test_memory_of_a_picture_is_not_that_of_the_frame():
    frame = np.broadcast_to(np.uint8(7), (12_000, 6000))
    tracemalloc.start()
    picture = frame_picture(frame)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert picture.shape == (4096, 2048, 3)
    assert peak < 0.75 * frame.size * 3  # the frame in RGB
