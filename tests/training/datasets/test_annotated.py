"""Cells as mask patches, frames and data sets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from training.datasets.annotated import (
    AnnotatedCell,
    AnnotatedDataset,
    AnnotatedFrame,
    AnnotationError,
    cell_from_polygons,
)


def frame(name: str, *class_ids: int) -> AnnotatedFrame:
    cells = tuple(AnnotatedCell(0, 0, np.ones((2, 2), bool), class_id) for class_id in class_ids)
    return AnnotatedFrame(Path(name), 10, 10, cells)


DATASET = AnnotatedDataset(
    ("a", "b"), (frame("one.png", 0, 1, 1), frame("two.png"), frame("3.png", 0))
)


def test_cut_is_tight_and_keeps_the_place() -> None:
    mask = np.zeros((20, 30), bool)
    mask[5:9, 7:12] = True
    cell = AnnotatedCell.cut(mask, 1, x=100, y=50)
    assert (cell.x, cell.y, cell.mask.shape, cell.class_id) == (107, 55, (4, 5), 1)
    assert cell.box == (107.0, 55.0, 112.0, 59.0)
    assert cell.area == 20


def test_cut_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one pixel"):
        AnnotatedCell.cut(np.zeros((3, 3), bool), 0)


@pytest.mark.parametrize(
    "field",
    [
        pytest.param({"x": 1}, id="place"),
        pytest.param({"class_id": 1}, id="class"),
        pytest.param({"mask": np.ones((2, 3), bool)}, id="mask"),
    ],
)
def test_cells_are_equal_by_value(field: dict[str, object]) -> None:
    values: dict[str, object] = {"x": 0, "y": 0, "mask": np.ones((2, 2), bool), "class_id": 0}
    assert AnnotatedCell(**values) == AnnotatedCell(**values)  # type: ignore[arg-type]
    assert AnnotatedCell(**values) != AnnotatedCell(**values | field)  # type: ignore[arg-type]


def test_polygon_spans_the_box_of_the_largest_component() -> None:
    mask = np.zeros((30, 40), bool)
    mask[2:5, 3:6] = True
    cv2.circle(view := mask.astype(np.uint8), (22, 16), 11, 1, -1)
    view[14:18, 20:25] = 0  # a hole is no outer contour
    cell = AnnotatedCell.cut(view.astype(bool), 0, x=1000, y=500)
    polygon = cell.polygon()
    assert polygon.dtype == np.float32
    np.testing.assert_array_equal(polygon.min(axis=0), (1011, 505))
    np.testing.assert_array_equal(polygon.max(axis=0), (1034, 528))


def test_polygon_fills_to_the_mask_it_came_from() -> None:
    image = np.zeros((80, 80), np.uint8)
    cv2.ellipse(image, (40, 38), (30, 12), 35, 0, 360, 1, -1)
    cell = AnnotatedCell.cut(image.astype(bool), 0)
    again = cell_from_polygons([cell.polygon().astype(float)], 0, 80, 80)
    assert again.box == cell.box
    assert np.count_nonzero(again.mask != cell.mask) <= 0.02 * cell.area


def test_polygon_of_one_pixel_is_an_outline() -> None:
    assert AnnotatedCell(3, 4, np.ones((1, 1), bool), 0).polygon().shape == (4, 2)


def test_subset_keeps_the_order_of_the_data_set() -> None:
    assert [f.path.stem for f in DATASET.subset(["3", "one"]).frames] == ["one", "3"]


def test_subset_refuses_names_that_no_frame_has() -> None:
    with pytest.raises(ValueError, match=r"no frame is called 'four', 'one\.png'"):
        DATASET.subset(["one", "one.png", "four"])


def test_as_one_class() -> None:
    merged = DATASET.as_one_class("nucleus")
    assert merged.class_names == ("nucleus",)
    assert merged.cells_per_class() == {"nucleus": 4}
    assert DATASET.cells_per_class() == {"a": 2, "b": 2}


def test_scale_and_pixel_size_stay() -> None:
    scaled = replace(frame("four.png", 0), scale=2.0)
    dataset = AnnotatedDataset(("a",), (scaled, frame("five.png", 0)), pixel_size_um=0.3)
    for part in (dataset.subset(["four"]), dataset.as_one_class()):
        assert part.pixel_size_um == 0.3
        assert part.frames[0].scale == 2.0
    assert dataset.frames[1].scale == 1.0


def test_two_images_of_one_name_are_refused() -> None:
    with pytest.raises(AnnotationError, match=r"b/one\.tif: 2 images are called 'one'"):
        AnnotatedDataset(("a",), (frame("b/one.tif"), frame("c/one.png")))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_read_gives_the_camera_values(tmp_path: Path, suffix: str) -> None:
    image = np.arange(600, dtype=np.uint16).reshape(20, 30) * 100
    cv2.imwrite(str(tmp_path / f"frame{suffix}"), image)
    read = AnnotatedFrame(tmp_path / f"frame{suffix}", 20, 30, ()).read()
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, image)


def test_read_gives_floats_as_the_server_gets_them(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.array([[0, 0.5, 1]], np.float32))
    read = AnnotatedFrame(tmp_path / "a.tif", 1, 3, ()).read()
    assert (read.dtype, read.tolist()) == (np.uint16, [[0, 32768, 65535]])


def test_read_gives_rgb(tmp_path: Path) -> None:
    image = np.zeros((4, 5, 3), np.uint8)
    image[..., 2] = 200  # OpenCV writes BGR: this is red
    cv2.imwrite(str(tmp_path / "red.png"), image)
    np.testing.assert_array_equal(
        AnnotatedFrame(tmp_path / "red.png", 4, 5, ()).read()[0, 0], (200, 0, 0)
    )
