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

from cytoserve.files import write_atomically
from cytoserve.outputs import CELLS_OUTPUTS, OVERLAY, encode_output
from cytoserve.outputs.coco import coco_json
from cytoserve.outputs.ome_tiff import labels_tiff
from cytoserve.outputs.source import Source
from cytoserve.outputs.tables import table_csv

SOURCE = Source("a/a.png")


@pytest.mark.parametrize("kind", CELLS_OUTPUTS)
@pytest.mark.parametrize("number", [0, 1, 3])
def test_every_output_of_any_number_of_cells(kind, number, cells, frame):
    assert CELLS_OUTPUTS[kind].encode(frame, cells[:number], SOURCE)


def test_labels(cells, frame):
    content = labels_tiff(frame, cells, SOURCE)
    labels = tifffile.imread(io.BytesIO(content))
    assert labels.dtype == np.uint16
    np.testing.assert_array_equal(labels, cells.label_image())
    assert len(content) < labels.nbytes / 3


def test_table(cells, frame):
    text = table_csv(frame, cells, SOURCE).decode("utf-8")
    assert text.count("\r\n") == 4
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    intensities = ["intensity_mean", "intensity_min", "intensity_max"]
    assert list(rows[0]) == ["image", *cells.table(), *intensities]
    assert {row["image"] for row in rows} == {"a/a.png"}
    assert rows[1]["class"] == "WBC"
    assert float(rows[1]["area"]) == cells.table()["area"][1]
    assert rows[0]["label"] == "1"


def test_table_quotes_and_leaves_unknown_values_empty(cells, frame):
    odd = cells[:1]
    object.__setattr__(odd, "class_names", ('a,"b"', "Ω"))
    object.__setattr__(odd, "labels", np.zeros((60, 80), np.uint16))
    (row,) = csv.DictReader(
        io.StringIO(table_csv(frame, odd, Source()).decode("utf-8"), newline="")
    )
    assert row["class"] == 'a,"b"'
    assert row["probability-Ω"]
    assert row["centroid-0"] == ""


def test_coco_is_what_pycocotools_reads(cells, frame, tmp_path, capsys):
    path = tmp_path / "a.json"
    path.write_bytes(coco_json(frame, cells, SOURCE))
    dataset = COCO(str(path))
    assert dataset.loadCats(dataset.getCatIds())[1]["name"] == "WBC"
    assert dataset.loadImgs(1)[0] == {"id": 1, "file_name": "a.png", "height": 60, "width": 80}
    annotations = dataset.loadAnns(dataset.getAnnIds())
    assert len(annotations) == 3
    labels, table = cells.label_image(), cells.table()
    for annotation in annotations:
        number = annotation["id"]
        np.testing.assert_array_equal(dataset.annToMask(annotation), labels == number)
        assert annotation["area"] == (labels == number).sum()
        x, y, width, height = annotation["bbox"]
        box = [table[f"bbox-{side}"][number - 1] for side in range(4)]
        assert [y, x, y + height, x + width] == box
    assert json.loads(path.read_bytes())["annotations"][1]["category_id"] == 2


@pytest.mark.parametrize("kind", CELLS_OUTPUTS)
def test_only_overlays_take_numbers(kind, cells, frame):
    plain = encode_output(kind, frame, cells, SOURCE)
    assert plain == CELLS_OUTPUTS[kind].encode(frame, cells, SOURCE)  # and the bytes are the same
    numbered = encode_output(kind, frame, cells, SOURCE, numbers=True)
    assert (numbered != plain) == (kind == OVERLAY)


@pytest.mark.parametrize("kind", CELLS_OUTPUTS)
def test_every_kind_but_rois_keeps_the_pixel_size(kind, cells, frame):
    """ImageJ takes the pixel size from the image that its ROIs lie on."""
    sized = encode_output(kind, frame, cells, Source("a/a.png", pixel_size_um=0.5))
    assert (sized != encode_output(kind, frame, cells, SOURCE)) == (kind != "rois")


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
        CELLS_OUTPUTS["overlay"].encode(frame, cells, SOURCE)
