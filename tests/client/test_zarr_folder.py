"""OME-Zarr: arrays read back by TensorStore, metadata checked by yaozarrs' models of OME-Zarr."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorstore
import yaozarrs

from cytoserve import cells_from_labels
from cytoserve.files import write_folder_atomically
from cytoserve.outputs import encode_output
from cytoserve.outputs.source import Source


def array(folder):
    spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": str(folder)}}
    return tensorstore.open(spec).result().read().result()


@pytest.mark.parametrize(
    ("shape", "channels"),
    [
        pytest.param((60, 80), (), id="grey"),
        pytest.param((1500, 2100, 3), ("DAPI", 'G"FP\n', "µ"), id="channels-and-levels"),
        pytest.param((1, 1), (), id="one-pixel"),
        pytest.param((3, 5000), (), id="thin"),
    ],
)
@pytest.mark.parametrize("pixel_size_um", [None, 0.5])
def test_image_and_labels(shape, channels, pixel_size_um, tmp_path):
    frame = np.random.default_rng(0).integers(0, 4000, shape).astype(np.uint16)
    labels = np.zeros(shape[:2], np.uint8)
    labels[:2, : shape[1] // 2 + 1] = 1
    cells = cells_from_labels(labels, np.array([1]), ("RBC", 'W"\nµ'))
    source = Source('a/"é"\n.tif', "z001", channels, pixel_size_um)
    folder = tmp_path / "a.ome.zarr"
    write_folder_atomically(folder, encode_output("zarr", frame, cells, source))
    yaozarrs.validate_zarr_store(str(folder))
    yaozarrs.validate_zarr_store(str(folder / "labels" / "cells"))
    wanted = frame if frame.ndim == 2 else np.moveaxis(frame, -1, 0)
    np.testing.assert_array_equal(array(folder / "0"), wanted)
    painted = cells.label_image()
    image = json.loads((folder / ".zattrs").read_text("utf-8"))
    below = json.loads((folder / "labels" / "cells" / ".zattrs").read_text("utf-8"))
    levels = image["multiscales"][0]["datasets"]
    assert len(levels) == len(below["multiscales"][0]["datasets"])
    for level in range(len(levels)):
        step = 2**level
        shown = array(folder / "labels" / "cells" / str(level))
        np.testing.assert_array_equal(shown, painted[::step, ::step])
        assert array(folder / str(level)).shape[-2:] == shown.shape
        scale = levels[level]["coordinateTransformations"][0]["scale"]
        assert scale[-2:] == [step * (pixel_size_um or 1)] * 2
    assert max(shown.shape) <= 1024
    units = {axis.get("unit") for axis in image["multiscales"][0]["axes"] if axis["name"] != "c"}
    assert units == {"micrometer" if pixel_size_um else None}
    if channels:
        assert tuple(each["label"] for each in image["omero"]["channels"]) == channels
    assert below["image-label"]["properties"] == [{"label-value": 1, "class": 'W"\nµ'}]


def test_without_cells(cells, frame, foreground, tmp_path):
    write_folder_atomically(tmp_path / "a", encode_output("zarr", frame, cells[:0], Source("a")))
    yaozarrs.validate_zarr_store(str(tmp_path / "a"))
    assert not array(tmp_path / "a" / "labels" / "cells" / "0").any()
    write_folder_atomically(tmp_path / "b", encode_output("zarr", frame, foreground, Source("b")))
    shown = array(tmp_path / "b" / "labels" / "cells" / "0")
    np.testing.assert_array_equal(shown, foreground.label_image())


def test_a_folder_is_replaced_whole(tmp_path):
    path = tmp_path / "a.zarr"
    write_folder_atomically(path, {"0/0": b"old", "1": b"old"})
    write_folder_atomically(path, {"0/0": b"new"})
    assert [file for file in path.rglob("*") if file.is_file()] == [path / "0" / "0"]
    assert [file.name for file in tmp_path.iterdir()] == ["a.zarr"]


def test_a_full_disk_leaves_the_old_folder_and_no_debris(tmp_path, monkeypatch):
    path = tmp_path / "a.zarr"
    write_folder_atomically(path, {"0": b"old"})
    replace = type(path).replace

    def failing(part, target):
        if target == path and part.name.endswith(".part"):
            raise OSError("No space left")
        return replace(part, target)

    monkeypatch.setattr(type(path), "replace", failing)
    with pytest.raises(OSError, match="No space left"):
        write_folder_atomically(path, {"0": b"new"})
    assert (path / "0").read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.zarr"]
