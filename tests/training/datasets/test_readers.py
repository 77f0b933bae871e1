"""The three layouts, read into the same cells."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco_mask

from training.datasets.annotated import (
    AnnotatedCell,
    AnnotatedDataset,
    AnnotationError,
    cell_from_rle,
    rle_from_cell,
)
from training.datasets.readers import read_annotated

HEIGHT, WIDTH = 40, 60
REAL = Path(__file__).parents[4] / "shared" / "data"
SQUARE = AnnotatedCell(10, 5, np.ones((8, 12), bool), 0)
CORNER = AnnotatedCell(50, 30, np.ones((10, 10), bool), 1)


def write_images(directory: Path, *stems: str) -> None:
    (directory / "images").mkdir(parents=True)
    for stem in stems:
        cv2.imwrite(str(directory / "images" / f"{stem}.png"), np.zeros((HEIGHT, WIDTH), np.uint16))


def rectangle(cell: AnnotatedCell) -> list[float]:
    x0, y0, x1, y1 = cell.box
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def coco(*annotations: dict[str, Any]) -> dict[str, Any]:
    return {
        "images": [
            {"id": 4, "file_name": "full.png", "height": HEIGHT, "width": WIDTH},
            {"id": 9, "file_name": "empty.png", "height": HEIGHT, "width": WIDTH},
        ],
        "categories": [{"id": 7, "name": "a"}, {"id": 3, "name": "b"}],
        "annotations": [
            {"id": i + 1, "image_id": 4, "category_id": 7, **a} for i, a in enumerate(annotations)
        ],
    }


def write_coco(directory: Path) -> None:
    write_images(directory, "full", "empty")
    runs = rle_from_cell(CORNER, HEIGHT, WIDTH)
    content = coco({"segmentation": [rectangle(SQUARE)]}, {"segmentation": runs, "category_id": 3})
    (directory / "instances.json").write_text(json.dumps(content))


def write_label_images(directory: Path) -> None:
    write_images(directory, "full", "empty")
    (directory / "labels").mkdir()
    labels = np.zeros((HEIGHT, WIDTH), np.uint16)
    cv2.imwrite(str(directory / "labels" / "empty.png"), labels)
    labels[5:13, 10:22], labels[30:40, 50:60] = 300, 65535
    tifffile.imwrite(directory / "labels" / "full.tif", labels)
    table = {"class_names": ["a", "b"], "classes": {"full": {"300": "a", "65535": 1}}}
    (directory / "classes.json").write_text(json.dumps(table))


def write_yolo_seg(directory: Path) -> None:
    write_images(directory, "full", "empty")
    (directory / "labels").mkdir()
    lines = [
        " ".join(map(str, [cell.class_id, *np.divide(rectangle(cell), [WIDTH, HEIGHT] * 4)]))
        for cell in (SQUARE, CORNER)
    ]
    (directory / "labels" / "full.txt").write_text("\n".join(lines) + "\n\n")
    (directory / "data.yaml").write_text("path: .\ntrain: images\nnames: {0: a, 1: b}\n")


@pytest.mark.parametrize("write", [write_coco, write_label_images, write_yolo_seg])
def test_every_layout_gives_the_same_cells(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path)
    dataset = read_annotated(tmp_path)
    cells = {frame.path.stem: frame.cells for frame in dataset.frames}
    assert dataset.class_names == ("a", "b")
    assert cells == {"full": (SQUARE, CORNER), "empty": ()}
    assert {(frame.height, frame.width) for frame in dataset.frames} == {(HEIGHT, WIDTH)}
    assert dataset.frames[0].read().shape == (HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("write", "file"), [(write_coco, "instances.json"), (write_yolo_seg, "data.yaml")]
)
def test_a_data_set_is_also_named_by_its_file(
    tmp_path: Path, write: Callable[[Path], None], file: str
) -> None:
    write(tmp_path)
    assert read_annotated(tmp_path / file) == read_annotated(tmp_path)


def test_the_only_json_file_is_taken_as_coco(tmp_path: Path) -> None:
    write_coco(tmp_path)
    (tmp_path / "instances.json").rename(tmp_path / "train2026.json")
    assert len(read_annotated(tmp_path).frames[0].cells) == 2


def test_label_images_without_class_table_are_one_class(tmp_path: Path) -> None:
    write_label_images(tmp_path)
    (tmp_path / "classes.json").unlink()
    assert read_annotated(tmp_path).cells_per_class() == {"cell": 2}


def read_one(tmp_path: Path, *annotations: dict[str, Any]) -> AnnotatedDataset:
    write_images(tmp_path, "full", "empty")
    (tmp_path / "instances.json").write_text(json.dumps(coco(*annotations)))
    return read_annotated(tmp_path)


def test_polygons_of_one_annotation_are_one_cell(tmp_path: Path) -> None:
    segmentation = [rectangle(SQUARE), rectangle(CORNER)]
    (cell,) = read_one(tmp_path, {"segmentation": segmentation}).frames[0].cells
    assert cell.area == SQUARE.area + CORNER.area
    assert cell.box == (10, 5, 60, 40)


def test_uncompressed_rle(tmp_path: Path) -> None:
    counts = [HEIGHT * 3 + 2, 5, HEIGHT * (WIDTH - 3) - 7]
    runs = {"size": [HEIGHT, WIDTH], "counts": counts}
    (cell,) = read_one(tmp_path, {"segmentation": runs}).frames[0].cells
    assert cell == AnnotatedCell(3, 2, np.ones((5, 1), bool), 0)


def test_crowds_are_no_cells(tmp_path: Path) -> None:
    crowd = {"segmentation": [rectangle(CORNER)], "iscrowd": 1}
    assert read_one(tmp_path, crowd, {"segmentation": [rectangle(SQUARE)]}).frames[0].cells == (
        SQUARE,
    )


def test_overlap_is_kept(tmp_path: Path) -> None:
    both = read_one(tmp_path, *[{"segmentation": [rectangle(SQUARE)]}] * 2).frames[0].cells
    assert both == (SQUARE, SQUARE)


def test_what_lies_beyond_the_frame_is_cut_off(tmp_path: Path) -> None:
    polygon = [-3, -2, 10, -2, 10, 10, -3, 10]
    (cell,) = read_one(tmp_path, {"segmentation": [polygon]}).frames[0].cells
    assert cell.box == (0, 0, 10, 10)


def write_ome(path: Path) -> None:
    metadata = {"axes": "YX", "PhysicalSizeX": 325.0, "PhysicalSizeXUnit": "nm"}
    tifffile.imwrite(path, np.zeros((HEIGHT, WIDTH), np.uint16), ome=True, metadata=metadata)


def write_imagej(path: Path) -> None:
    image = np.zeros((HEIGHT, WIDTH), np.uint16)
    resolution = {"resolution": (1 / 0.65, 1 / 0.65), "metadata": {"unit": "um", "axes": "YX"}}
    tifffile.imwrite(path, image, imagej=True, **resolution)


@pytest.mark.parametrize(
    ("write_image", "expected"),
    [
        pytest.param(write_ome, 0.325, id="OME-TIFF"),
        pytest.param(write_imagej, 0.65, id="ImageJ TIFF"),
    ],
)
def test_the_first_image_tells_the_pixel_size(
    tmp_path: Path, write_image: Callable[[Path], None], expected: float
) -> None:
    (tmp_path / "images").mkdir()
    image = {"id": 1, "file_name": "full.tif", "height": HEIGHT, "width": WIDTH}
    content = {"images": [image], "categories": [{"id": 1, "name": "a"}], "annotations": []}
    (tmp_path / "instances.json").write_text(json.dumps(content))
    write_image(tmp_path / "images" / "full.tif")
    assert read_annotated(tmp_path).pixel_size_um == pytest.approx(expected)


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        pytest.param({"pixel_size_um": 0.5}, 0.5, id="told"),
        pytest.param({"pixel_size_um": None}, 0.325, id="null: the image tells"),
        pytest.param({"description": "cells"}, 0.325, id="something else: the image tells"),
        pytest.param("a text", 0.325, id="no object: the image tells"),
        pytest.param(None, 0.325, id="nothing: the image tells"),
    ],
)
def test_coco_info_goes_before_what_the_image_tells(
    tmp_path: Path, info: Any, expected: float
) -> None:
    write_images(tmp_path, "empty")
    write_ome(tmp_path / "images" / "full.tif")
    content = coco()
    content["images"][0]["file_name"] = "full.tif"
    (tmp_path / "instances.json").write_text(json.dumps({"info": info, **content}))
    assert read_annotated(tmp_path).pixel_size_um == expected


@pytest.mark.parametrize("write", [write_coco, write_label_images, write_yolo_seg])
def test_without_metadata_the_pixel_size_is_unknown(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    write(tmp_path)
    assert read_annotated(tmp_path).pixel_size_um is None


@given(arrays.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))), st.data())
def test_rle_is_pycocotools_own(mask: np.ndarray[Any, Any], data: st.DataObject) -> None:
    mask[0, 0] = True
    x, y = data.draw(st.integers(0, 4)), data.draw(st.integers(0, 4))
    frame = np.zeros((13, 14), np.uint8, order="F")
    frame[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
    cell = AnnotatedCell.cut(mask, 2, x=x, y=y)
    runs = rle_from_cell(cell, 13, 14)
    assert runs["counts"].encode() == coco_mask.encode(frame)["counts"]
    assert cell_from_rle(runs["counts"], 2, 13, 14) == cell


@pytest.mark.parametrize(
    ("name", "frames", "cells"),
    [
        pytest.param("bccd", 60, {"RBC": 717, "WBC": 61}, id="bccd"),
        pytest.param("t98g", 18, {"cell": 1104}, id="t98g"),
        pytest.param("dsb2018", 84, {"cell": 3721}, id="dsb2018"),
    ],
)
def test_real_data(name: str, frames: int, cells: dict[str, int]) -> None:
    if not (REAL / name).exists():
        pytest.skip(f"the images of {name} are not in {REAL}")
    dataset = read_annotated(REAL / name)
    assert len(dataset.frames) == frames
    assert dataset.cells_per_class() == cells
    first = dataset.frames[0]
    assert first.read().shape[:2] == (first.height, first.width)


def test_an_unknown_layout_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    write_images(tmp_path, "full")
    with pytest.raises(AnnotationError, match=r"no data set that is known \(images\); lay it out"):
        read_annotated(tmp_path)
