"""Data sets laid out as they are published: LIVECell and Glioma C6, on small files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile

from training.datasets.annotated import AnnotationError
from training.datasets.readers import read_annotated
from training.run.command_line import read_data

HEIGHT, WIDTH = 52, 70


def square(x: float, y: float, side: float = 6) -> list[float]:
    return [x, y, x + side, y, x + side, y + side, x, y + side]


def listing(*names: str, **changes: Any) -> dict[str, Any]:
    """COCO of images ``names``, ids from 1, and one cell an image at (10 * id, 5)."""
    images = [
        {"id": i, "file_name": name, "height": HEIGHT, "width": WIDTH, "url": "", "original": name}
        for i, name in enumerate(names, start=1)
    ]
    annotations = [
        {
            "id": 100 + image["id"],
            "image_id": image["id"],
            "category_id": 1,
            "iscrowd": 0,
            "bbox": [10 * image["id"], 5, 6, 6],
            "area": 36.0,
            "segmentation": [square(10 * image["id"], 5)],
        }
        for image in images
    ]
    categories = [{"id": 1, "name": "cell", "supercategory": "cell"}]
    return {"images": images, "annotations": annotations, "categories": categories, **changes}


def write(file: Path, content: dict[str, Any]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    return file


def write_image(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(file, np.zeros((HEIGHT, WIDTH), np.uint8))


@pytest.fixture
def livecell(tmp_path: Path) -> Path:
    """The published tree, with two images to train on and one to test."""
    images = tmp_path / "images"
    write_image(images / "livecell_train_val_images" / "A172" / "A172_Phase_A7_1_00d00h00m_1.tif")
    write_image(images / "livecell_train_val_images" / "BV2" / "BV2_Phase_A4_1_00d00h00m_1.tif")
    write_image(images / "livecell_test_images" / "A172" / "A172_Phase_C7_1_02d16h00m_2.tif")
    annotations = tmp_path / "annotations" / "LIVECell"
    names = ("A172_Phase_A7_1_00d00h00m_1.tif", "BV2_Phase_A4_1_00d00h00m_1.tif")
    write(annotations / "livecell_coco_train.json", listing(*names))
    write(annotations / "livecell_coco_test.json", listing("A172_Phase_C7_1_02d16h00m_2.tif"))
    return annotations


def test_livecell_splits_are_read_by_their_files(livecell: Path) -> None:
    train = read_annotated(livecell / "livecell_coco_train.json")
    assert [frame.path.parent.name for frame in train.frames] == ["A172", "BV2"]
    assert [frame.cells[0].box for frame in train.frames] == [(10, 5, 16, 11), (20, 5, 26, 11)]
    assert train.frames[1].read().shape == (HEIGHT, WIDTH)
    test = read_annotated(livecell / "livecell_coco_test.json")
    assert [frame.path.stem for frame in test.frames] == ["A172_Phase_C7_1_02d16h00m_2"]


def test_annotations_may_lie_beside_images(livecell: Path) -> None:
    file = livecell.parents[1] / "livecell_coco_test.json"
    (livecell / "livecell_coco_test.json").rename(file)
    assert len(read_annotated(file).frames) == 1


def test_of_several_splits_one_is_named(livecell: Path) -> None:
    with pytest.raises(AnnotationError, match=r"livecell_coco_test\.json, .*of several, name the"):
        read_annotated(livecell)


def test_an_image_annotated_twice_is_read_once(livecell: Path) -> None:
    name = "BV2_Phase_A4_1_00d00h00m_1.tif"
    file = write(livecell / "livecell_coco_train.json", listing(name, name))
    (frame,) = read_annotated(file).frames
    assert [cell.box for cell in frame.cells] == [(10, 5, 16, 11)]


def test_annotations_keyed_by_their_id(livecell: Path) -> None:
    file = livecell / "livecell_coco_test.json"
    expected = read_annotated(file).frames
    content = json.loads(file.read_text())
    content["annotations"] = {str(a["id"]): a for a in content["annotations"]}
    write(file, content)
    assert read_annotated(file).frames == expected
    del content["annotations"]["101"]["image_id"]
    write(file, content)
    with pytest.raises(AnnotationError, match=r"annotation 101, key 'image_id': Field required"):
        read_annotated(file)


def test_two_files_of_one_name(livecell: Path) -> None:
    name = "A172_Phase_C7_1_02d16h00m_2.tif"
    write_image(livecell.parents[1] / "images" / "copy" / name)
    with pytest.raises(AnnotationError, match=r"image 1, A172.*is one of 2 files .* write the pat"):
        read_annotated(livecell / "livecell_coco_test.json")


def test_an_image_that_is_not_there(livecell: Path) -> None:
    file = write(livecell / "livecell_coco_test.json", listing("MCF7_1.tif"))
    with pytest.raises(AnnotationError, match=r"images.MCF7_1\.tif: is missing; add"):
        read_annotated(file)


@pytest.mark.parametrize(
    ("polygons", "message"),
    [
        pytest.param([], r"has no segmentation; outline", id="no polygon"),
        pytest.param([[]], r"has a polygon of 0 points; an outline needs at least 3", id="empty"),
        pytest.param([square(5, 5), []], r"has a polygon of 0 points", id="one of two empty"),
        pytest.param([square(5, 5), 7], r"key 'segmentation': .*valid list", id="a number"),
        pytest.param([[1, 2, 1e999, 4, 5, 6]], r"key 'segmentation': .*finite", id="infinite"),
        pytest.param([[1, 2, None, 4, 5, 6]], r"key 'segmentation': .*valid number", id="null"),
        pytest.param(
            [[10**400, 2, 3, 4, 5, 6]], r"key 'segmentation': .*valid number", id="too large"
        ),
    ],
)
def test_polygons_that_are_no_cell(livecell: Path, polygons: Any, message: str) -> None:
    content = listing("A172_Phase_C7_1_02d16h00m_2.tif")
    content["annotations"][0]["segmentation"] = polygons
    file = write(livecell / "livecell_coco_test.json", content)
    with pytest.raises(
        AnnotationError, match=rf"livecell_coco_test\.json: annotation 101.*{message}"
    ):
        read_annotated(file)


def test_glioma_c6_objects_make_one_binary_mask(tmp_path: Path) -> None:
    folder = tmp_path / "dataset" / "spec" / "valid"
    write_image(folder / "images" / "c6_1.tif")
    categories = [
        {"id": 1, "name": "type A", "supercategory": "cell"},
        {"id": 2, "name": "soma", "supercategory": "cell_part"},
    ]
    content = listing("c6_1.tif", categories=categories)
    shapes = [(1, [square(5, 5, 20)]), (2, [square(9, 9, 4)]), (1, [square(20, 20), square(40, 9)])]
    content["annotations"] = [
        {"id": i, "image_id": 1, "category_id": category, "segmentation": polygons}
        for i, (category, polygons) in enumerate(shapes)
    ]
    dataset = read_annotated(write(folder / "anno_valid.json", content))
    assert read_annotated(folder) == dataset  # the one JSON of its folder
    assert dataset.cells_per_class() == {"type A": 2, "soma": 1}
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for cell in dataset.as_one_class().frames[0].cells:
        rows, columns = cell.mask.shape
        mask[cell.y : cell.y + rows, cell.x : cell.x + columns] |= cell.mask
    expected = np.zeros_like(mask)
    for x, y, side in ((5, 5, 20), (20, 20, 6), (40, 9, 6)):
        expected[y : y + side, x : x + side] = 1
    assert np.array_equal(mask, expected)
    assert cv2.connectedComponents(mask)[0] == 3  # the background and two objects


def test_the_data_option_takes_one_json_and_hashes_its_images(livecell: Path) -> None:
    file = livecell / "livecell_coco_test.json"

    def read() -> str:
        dataset, hashes = read_data([str(file)], one_class=True)
        assert len(dataset.frames) == 1
        return hashes[str(file)]

    before = read()
    assert read() == before
    write_image(livecell.parents[1] / "images" / "livecell_test_images" / "another.tif")
    assert read() == before  # of another split
    (image,) = (livecell.parents[1] / "images").rglob("A172_Phase_C7_1_02d16h00m_2.tif")
    tifffile.imwrite(image, np.ones((HEIGHT, WIDTH), np.uint8))
    with_image = read()
    assert with_image != before
    write(file, {**json.loads(file.read_text()), "info": "changed"})
    assert read() not in (before, with_image)
