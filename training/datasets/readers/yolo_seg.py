"""YOLO-seg, in the layout of ultralytics: ``data.yaml``, ``images/`` and ``labels/``.

The text file of an image lies at the same path under ``labels/`` and has one cell per line: the
class index, then x and y of every point, as fractions of the frame's width and height. An image
without a text file, or with an empty one, has no cells. Only ``names`` is read from ``data.yaml``:
the frames of all its splits form one data set.
https://docs.ultralytics.com/datasets/segment/
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, Field, field_validator

from training.datasets.annotated import (
    AnnotatedCell,
    AnnotatedDataset,
    AnnotatedFrame,
    AnnotationError,
    cell_from_polygons,
    polygon_points,
)
from training.datasets.readers.files import (
    by_name,
    image_size,
    images_in,
    parse,
    read_text,
    read_yaml,
)


class _Data(BaseModel):
    names: dict[int, str] = Field(min_length=1)

    @field_validator("names", mode="before")
    @classmethod
    def _number(cls, names: Any) -> Any:
        return dict(enumerate(names)) if isinstance(names, list) else names


def read_yolo_seg(directory: Path) -> AnnotatedDataset:
    """Read ``data.yaml``, ``images/`` and ``labels/`` in ``directory``. Raises AnnotationError."""
    class_names = _class_names(directory / "data.yaml")
    images, labels = directory / "images", directory / "labels"
    files = by_name(
        images_in(images), lambda image: labels / image.relative_to(images).with_suffix(".txt")
    )
    if not files:
        reason = "holds no image; put those of all splits there, and their text files into labels/"
        raise AnnotationError(images, "", reason)
    for file in sorted(labels.rglob("*.txt")):
        if file not in files:
            raise AnnotationError(file, "", f"has no image of its name in {images}; add the image")
    frames = []
    for file, image in files.items():
        height, width = image_size(image)
        lines = read_text(file).splitlines() if file.exists() else []
        cells = []
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                cells.append(_cell(line, class_names, height, width))
            except ValueError as error:
                raise AnnotationError(file, f"line {number}", str(error)) from error
        frames.append(AnnotatedFrame(image, height, width, tuple(cells)))
    return AnnotatedDataset(class_names, tuple(frames))


def _class_names(path: Path) -> tuple[str, ...]:
    names = parse(_Data, read_yaml(path), path).names
    if sorted(names) != list(range(len(names))):
        reason = f"has the indices {sorted(names)}; number the classes from 0 without gaps"
        raise AnnotationError(path, "key 'names'", reason)
    return tuple(names[index] for index in range(len(names)))


def _cell(line: str, class_names: tuple[str, ...], height: int, width: int) -> AnnotatedCell:
    """Parse the cell of one line. Raises ValueError with the reason if the line is invalid."""
    class_id, numbers = _numbers(line)
    if not 0 <= class_id < len(class_names):
        raise ValueError(
            f"has class {class_id}, but data.yaml names {len(class_names)} classes "
            f"(0 to {len(class_names) - 1}); correct the index or add the name"
        )
    polygon = polygon_points(numbers)
    if not np.all((polygon >= 0) & (polygon <= 1)):  # also false for NaN
        raise ValueError(
            f"has coordinates from {polygon.min():g} to {polygon.max():g}; give fractions of the "
            "frame's width and height, 0 to 1"
        )
    return cell_from_polygons([polygon * (width, height)], class_id, height, width)


def _numbers(line: str) -> tuple[int, list[float]]:
    first, *rest = line.split()
    if not first.isdigit():
        raise ValueError(f"begins with {first!r}; give the class index, a whole number from 0")
    numbers = []
    for token in rest:
        try:
            numbers.append(float(token))
        except ValueError:
            raise ValueError(f"has {token!r} where a coordinate belongs; give a number") from None
    return int(first), numbers
