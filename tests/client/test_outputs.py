from __future__ import annotations

import csv
import errno
import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from pycocotools.coco import COCO

from cytoserve.outputs import (
    CELLS_OUTPUTS,
    coco_json,
    labels_tiff,
    table_csv,
    write_atomically,
)
from cytoserve.overlay import draw_overlay
from cytoserve.picture import COLOURS, SIDES


@pytest.mark.parametrize("kind", CELLS_OUTPUTS)
@pytest.mark.parametrize("number", [0, 1, 3])
def test_every_output_of_any_number_of_cells(kind, number, cells, frame):
    assert CELLS_OUTPUTS[kind].encode(frame, cells[:number], "a.png")


def test_labels(cells, frame):
    content = labels_tiff(frame, cells, "a.png")
    labels = tifffile.imread(io.BytesIO(content))
    assert labels.dtype == np.uint16
    np.testing.assert_array_equal(labels, cells.label_image())
    assert len(content) < labels.nbytes / 3


def test_table(cells, frame):
    text = table_csv(frame, cells, "a.png").decode("utf-8")
    assert text.count("\r\n") == 4
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert list(rows[0]) == list(cells.table())
    assert rows[1]["class"] == "WBC"
    assert float(rows[1]["area"]) == cells.table()["area"][1]
    assert rows[0]["label"] == "1"


def test_table_quotes_and_leaves_unknown_values_empty(cells, frame):
    odd = cells[:1]
    object.__setattr__(odd, "class_names", ('a,"b"', "Ω"))
    object.__setattr__(odd, "patches", np.zeros_like(odd.patches))
    (row,) = csv.DictReader(io.StringIO(table_csv(frame, odd, "").decode("utf-8"), newline=""))
    assert row["class"] == 'a,"b"'
    assert row["probability-Ω"]
    assert row["centroid-0"] == ""


def test_coco_is_what_pycocotools_reads(cells, frame, tmp_path, capsys):
    path = tmp_path / "a.json"
    path.write_bytes(coco_json(frame, cells, "a.png"))
    dataset = COCO(str(path))
    assert dataset.loadCats(dataset.getCatIds())[1]["name"] == "WBC"
    assert dataset.loadImgs(1)[0] == {"id": 1, "file_name": "a.png", "height": 60, "width": 80}
    annotations = dataset.loadAnns(dataset.getAnnIds())
    assert len(annotations) == 3
    for annotation, mask, box in zip(annotations, cells.masks(), cells.boxes, strict=True):
        np.testing.assert_array_equal(dataset.annToMask(annotation), mask)
        assert annotation["area"] == mask.sum()
        x, y, width, height = annotation["bbox"]
        np.testing.assert_allclose((x, y, x + width, y + height), box, atol=2e-3)
    assert json.loads(path.read_bytes())["annotations"][1]["category_id"] == 2


@pytest.mark.parametrize(
    ("shape", "side"),
    [
        pytest.param((60, 80), 640, id="small-is-enlarged-8-times"),
        pytest.param((480, 640, 3), SIDES[0], id="rgb"),
        pytest.param((2048, 2048), 2048, id="as-it-is"),
        pytest.param((5000, 100), SIDES[1], id="large-is-reduced"),
        pytest.param((1, 1), 8, id="1x1"),
        pytest.param((1, 3000, 3), 3000, id="a-line"),
    ],
)
def test_overlay_size(cells, shape, side):
    picture = draw_overlay(np.zeros(shape, np.uint8), cells)
    assert picture.dtype == np.uint8
    assert side in (picture.shape[1], picture.shape[0] - legend_height(picture, shape, side))


def legend_height(picture, shape, side):
    return picture.shape[0] - max(1, round(shape[0] * side / max(shape[:2])))


def test_overlay_draws_every_class_in_its_colour(cells, frame):
    picture = draw_overlay(frame, cells)
    for class_id, polygon in zip(cells.class_ids, cells.polygons(), strict=True):
        column, row = np.rint(polygon[0] * 8 - 0.5).astype(int)
        near = picture[row - 2 : row + 3, column - 2 : column + 3].reshape(-1, 3)
        assert (near == COLOURS[class_id]).all(axis=1).any()


def test_overlay_stretches_a_dim_frame(cells):
    dim = np.full((60, 80), 300, np.uint16)
    dim[:30] = 340
    picture = draw_overlay(dim, cells[:0])
    assert picture[:200].mean() > 250
    assert picture[300:460].mean() < 5


def test_write_replaces_whole(tmp_path):
    path = tmp_path / "deep" / "a.tif"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert [file.name for file in path.parent.iterdir()] == ["a.tif"]


def test_a_full_disk_leaves_the_old_file_and_no_debris(tmp_path, monkeypatch):
    path = tmp_path / "a.tif"
    write_atomically(path, b"old")

    def half(part, content):
        with part.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new content")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.tif"]


def test_an_encoder_that_fails_is_reported(cells, frame, monkeypatch):
    monkeypatch.setattr(cv2, "imencode", lambda *_: (False, None))
    with pytest.raises(OSError, match="could not encode"):
        CELLS_OUTPUTS["overlay"].encode(frame, cells, "a.png")
