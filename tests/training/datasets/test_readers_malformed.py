"""Every malformed annotation is refused with its file, its entry and the reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile

from training.datasets.annotated import AnnotationError
from training.datasets.readers import read_annotated

SIZE = 20
SQUARE = [2.0, 2.0, 8.0, 2.0, 8.0, 8.0, 2.0, 8.0]


def write_image(directory: Path) -> None:
    (directory / "images").mkdir()
    cv2.imwrite(str(directory / "images" / "f.png"), np.zeros((SIZE, SIZE), np.uint8))


def coco_content() -> dict[str, Any]:
    return {
        "images": [{"id": 1, "file_name": "f.png", "height": SIZE, "width": SIZE}],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [{"id": 5, "image_id": 1, "category_id": 1, "segmentation": [SQUARE]}],
    }


def first(name: str, **values: Any) -> Callable[[dict[str, Any]], None]:
    """Change the first item of the list ``name``."""
    return lambda content: content[name][0].update(values)


def shape(segmentation: Any) -> Callable[[dict[str, Any]], None]:
    return first("annotations", segmentation=segmentation)


def without(name: str, key: str) -> Callable[[dict[str, Any]], None]:
    return lambda content: content[name][0].pop(key)  # type: ignore[no-any-return]


def twice(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda content: content[name].append(content[name][0])  # type: ignore[no-any-return]


def rle(counts: Any, size: int = SIZE) -> Callable[[dict[str, Any]], None]:
    return shape({"size": [SIZE, size], "counts": counts})


COCO = [
    pytest.param(lambda c: c.clear(), r"images: Field required", id="no images"),
    pytest.param(
        lambda c: c.update(info={"pixel_size_um": 0}),
        r"pixel_size_um.*greater than 0",
        id="a pixel size of 0",
    ),
    pytest.param(
        without("annotations", "image_id"),
        r"annotation 5, key 'image_id': Field required; correct the entry",
        id="missing key",
    ),
    pytest.param(without("annotations", "id"), r"annotations\[0\], key 'id'", id="no id"),
    pytest.param(without("images", "width"), r"image 1, key 'width': Field", id="no width"),
    pytest.param(
        first("annotations", image_id=8), r"annotation 5: is on image 8, which", id="unknown image"
    ),
    pytest.param(
        first("annotations", category_id=8),
        r"annotation 5: has category 8, .* \(1 cell\); add it",
        id="unknown category",
    ),
    pytest.param(
        shape([[1, 1, 5, 5]]), r"annotation 5 on f\.png: has a polygon of 2 points", id="2 points"
    ),
    pytest.param(shape([[1, 1, 5, 5, 1, 5, 3]]), r"7 numbers, which is odd", id="odd polygon"),
    pytest.param(
        shape([[1, 1, float("nan"), 5, 1, 5]]),
        r"annotation 5, key 'segmentation'.*: Input should be a finite number",
        id="NaN",
    ),
    pytest.param(shape([["a", 1, 2, 5, 1, 5]]), r"annotation 5, .*valid number", id="text"),
    pytest.param(
        shape([[1, 1, 900, 5, 1, 50]]),
        r"from \(1, 1\) to \(900, 50\), far outside the frame of 20 x 20",
        id="far outside",
    ),
    pytest.param(
        shape([[21, 1, 21.5, 5, 21, 5]]), r"covers no pixel of the frame", id="just outside"
    ),
    pytest.param(shape([]), r"has no segmentation; outline", id="no segmentation"),
    pytest.param(rle([10, 20]), r"runs that cover 30 pixels .* has 400", id="short RLE"),
    pytest.param(rle([410, -20, 10]), r"runs that cover 400 pixels", id="negative run"),
    pytest.param(rle([400]), r"a mask without a pixel", id="empty RLE"),
    pytest.param(rle([400], size=21), r"size \[20, 21\] where the image is", id="RLE size"),
    pytest.param(rle("zzz"), r"character 'z' in its RLE", id="RLE character"),
    pytest.param(rle("X"), r"ends within a number", id="truncated RLE"),
    pytest.param(rle("13"), r"runs that cover 4 pixels", id="short compressed RLE"),
    pytest.param(
        first("images", width=30),
        r"image 1, f\.png: is declared as 30 x 20 pixels, the file has 20 x 20",
        id="image size",
    ),
    pytest.param(
        first("images", file_name="g.png"), r"images.g\.png: is missing; add", id="missing image"
    ),
    pytest.param(twice("images"), r"image 1: is listed twice", id="image twice"),
    pytest.param(twice("categories"), r"category 1: is listed twice", id="category twice"),
]


@pytest.mark.parametrize(("spoil", "message"), COCO)
def test_coco(tmp_path: Path, spoil: Callable[[dict[str, Any]], None], message: str) -> None:
    write_image(tmp_path)
    content, file = coco_content(), tmp_path / "instances.json"
    file.write_text(json.dumps(content))
    assert len(read_annotated(tmp_path).frames[0].cells) == 1  # sound before it is spoilt
    spoil(content)
    file.write_text(json.dumps(content))
    with pytest.raises(AnnotationError, match=message) as caught:
        read_annotated(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b'{"images": [,', r"line 1, column 13: is not valid JSON", id="invalid"),
        pytest.param(b"", r"line 1, column 1: is not valid JSON", id="empty"),
        pytest.param(b"\xff\xfe{}", r"is not UTF-8 text", id="encoding"),
        pytest.param(b"[1, 2]", r"instances\.json: Input should be a valid dict", id="a list"),
    ],
)
def test_json(tmp_path: Path, data: bytes, message: str) -> None:
    write_image(tmp_path)
    (tmp_path / "instances.json").write_bytes(data)
    with pytest.raises(AnnotationError, match=message):
        read_annotated(tmp_path)


def write_table(content: Any) -> Callable[[Path], object]:
    return lambda directory: (directory / "classes.json").write_text(json.dumps(content))


def table(**classes: Any) -> Callable[[Path], object]:
    return write_table({"class_names": ["a", "b"], "classes": classes})


def labels(image: Any) -> Callable[[Path], object]:
    def write(directory: Path) -> None:
        (directory / "labels" / "f.png").unlink()
        tifffile.imwrite(directory / "labels" / "f.tif", image)

    return write


LABEL_IMAGES = [
    pytest.param(
        labels(np.zeros((SIZE, 21), np.uint8)),
        r"f\.tif: has 21 x 20 pixels, its image 20 x 20; save",
        id="size",
    ),
    pytest.param(
        labels(np.zeros((SIZE, SIZE), np.float32)), r"is float32 of shape \[20, 20\]", id="float"
    ),
    pytest.param(
        labels(np.zeros((SIZE, SIZE, 3), np.uint8)), r"shape \[20, 20, 3\]; save", id="channels"
    ),
    pytest.param(
        labels(np.full((SIZE, SIZE), -3, np.int32)), r"label -3: is negative", id="negative"
    ),
    pytest.param(
        lambda d: (d / "labels" / "f.png").write_bytes(b""), r"f\.png: is empty", id="empty file"
    ),
    pytest.param(
        lambda d: (d / "labels" / "f.png").write_text("no"),
        r"png: is empty, damaged",
        id="text file",
    ),
    pytest.param(
        lambda d: (d / "labels" / "g.png").write_bytes(b""), r"g\.png: has no image 'g'", id="image"
    ),
    pytest.param(
        lambda d: cv2.imwrite(str(d / "images" / "h.png"), np.zeros((4, 4), np.uint8)),
        r"labels: h\.png: has no label image; add one, of zeros",
        id="label image",
    ),
    pytest.param(
        lambda d: cv2.imwrite(str(d / "images" / "f.tif"), np.zeros((SIZE, SIZE), np.uint8)),
        r"f\.tif: has the name of .*f\.png; .* rename one",
        id="two images of a name",
    ),
    pytest.param(
        lambda d: (d / "labels" / "f.tif").write_bytes(b""),
        r"labels.f\.tif: has the name of .*f\.png",
        id="two label images of a name",
    ),
    pytest.param(
        lambda d: (d / "images" / "f.png").write_bytes(b"II*\0"),
        r"images.f\.png: cannot be read as an image",
        id="a TIFF without a page",
    ),
    pytest.param(
        lambda d: (d / "images" / "f.png").write_text("not an image at all"),
        r"images.f\.png: cannot be read as an image",
        id="damaged image",
    ),
    pytest.param(
        table(f={"3": "a"}), r"f\.png: label 9: has no class in classes\.json", id="no class"
    ),
    pytest.param(table(), r"label 3: has no class in classes\.json", id="image not in table"),
    pytest.param(table(f={"3": "c"}), r"image 'f', label 3: is of class 'c'; give", id="name"),
    pytest.param(table(f={"3": 2}), r"image 'f', label 3: is of class 2; give", id="index"),
    pytest.param(table(g={}), r"image 'g': is not in images", id="unknown image"),
    pytest.param(table(f={"x": 0}), r"classes, key 'f': .* valid integer", id="label is text"),
    pytest.param(write_table({"classes": {}}), r"class_names: Field required", id="no names"),
]


@pytest.mark.parametrize(("spoil", "message"), LABEL_IMAGES)
def test_label_images(tmp_path: Path, spoil: Callable[[Path], object], message: str) -> None:
    write_image(tmp_path)
    (tmp_path / "labels").mkdir()
    image = np.zeros((SIZE, SIZE), np.uint8)
    image[2:5, 2:5], image[9:12, 9:12] = 3, 9
    cv2.imwrite(str(tmp_path / "labels" / "f.png"), image)
    table(f={"3": 0, "9": "b"})(tmp_path)
    assert len(read_annotated(tmp_path).frames[0].cells) == 2  # sound before it is spoilt
    spoil(tmp_path)
    with pytest.raises(AnnotationError, match=message):
        read_annotated(tmp_path)


SOUND_LINE = "0 0.1 0.1 0.5 0.1 0.5 0.5"
YOLO_LINES = [
    pytest.param("2 0.1 0.1 0.5 0.1 0.5 0.5", r"has class 2, but data\.yaml names 2", id="class"),
    pytest.param("-1 0.1 0.1 0.5 0.1 0.5 0.5", r"begins with '-1'; give", id="negative class"),
    pytest.param("1.5 0.1 0.1 0.5 0.1 0.5 0.5", r"begins with '1\.5'", id="fractional class"),
    pytest.param("0 0.1 0.1 0.5 x 0.5 0.5", r"has 'x' where a coordinate", id="token"),
    pytest.param("0 0.1 0.1 0.5 0.1 0.5 1.2", r"from 0\.1 to 1\.2; give fractions", id="above 1"),
    pytest.param("0 0.1 -0.1 0.5 0.1 0.5 1", r"from -0\.1 to 1; give", id="below 0"),
    pytest.param("0 0.1 nan 0.5 0.1 0.5 0.5", r"has coordinates from nan", id="NaN"),
    pytest.param("0 0.5 0.5 0.2 0.2", r"polygon of 2 points", id="a box"),
    pytest.param("0 0.5 0.5 0.2 0.2 0.1", r"5 numbers, which is odd", id="odd"),
    pytest.param("0", r"polygon of 0 points", id="class only"),
]


def write_yolo_seg(directory: Path) -> Path:
    write_image(directory)
    (directory / "labels").mkdir()
    (directory / "data.yaml").write_text("names: [a, b]\n")
    file = directory / "labels" / "f.txt"
    file.write_text(f"{SOUND_LINE}\n")
    assert len(read_annotated(directory).frames[0].cells) == 1  # sound before it is spoilt
    return file


@pytest.mark.parametrize(("line", "message"), YOLO_LINES)
def test_yolo_line(tmp_path: Path, line: str, message: str) -> None:
    file = write_yolo_seg(tmp_path)
    file.write_text(f"{SOUND_LINE}\n{line}\n")
    with pytest.raises(AnnotationError, match=rf"f\.txt: line 2: .*{message}"):
        read_annotated(tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param("names: [a", r"data\.yaml: line \d: is not valid YAML", id="invalid"),
        pytest.param("nc: 2", r"data\.yaml: names: Field required", id="no names"),
        pytest.param("names: []", r"data\.yaml: names.* at least 1 item", id="empty names"),
        pytest.param(
            "names: [yes, no]", r"names\[0\]: .* valid string, given True; correct", id="YAML's yes"
        ),
        pytest.param("names: {1: a, 2: b}", r"key 'names': has the indices \[1, 2\]", id="gaps"),
    ],
)
def test_yolo_data(tmp_path: Path, data: str, message: str) -> None:
    write_yolo_seg(tmp_path)
    (tmp_path / "data.yaml").write_text(data)
    with pytest.raises(AnnotationError, match=message):
        read_annotated(tmp_path)


def test_two_images_of_a_yolo_label_file(tmp_path: Path) -> None:
    write_yolo_seg(tmp_path)
    cv2.imwrite(str(tmp_path / "images" / "f.tif"), np.zeros((SIZE, SIZE), np.uint8))
    with pytest.raises(AnnotationError, match=r"f\.tif: has the name of .*f\.png"):
        read_annotated(tmp_path)


def test_yolo_images_elsewhere(tmp_path: Path) -> None:
    """Roboflow exports them so: ``train/images`` and ``train/labels``."""
    write_yolo_seg(tmp_path)
    (tmp_path / "train").mkdir()
    for folder in ("images", "labels"):
        (tmp_path / folder).rename(tmp_path / "train" / folder)
    with pytest.raises(AnnotationError, match=r"images: holds no image; put those of all splits"):
        read_annotated(tmp_path)


def test_yolo_label_file_without_image(tmp_path: Path) -> None:
    write_yolo_seg(tmp_path).with_stem("g").write_text(SOUND_LINE)
    with pytest.raises(AnnotationError, match=r"g\.txt: has no image of its name"):
        read_annotated(tmp_path)
