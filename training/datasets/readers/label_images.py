"""Label images: ``images/``, ``labels/`` with one label image per frame, ``classes.json``.

A label image is an integer PNG or TIFF with the stem and the size of its image: 0 is background,
every other value is one cell. A frame without cells has a label image of zeros. If the cells have
several classes, the class table lists them::

    {"class_names": ["RBC", "WBC"], "classes": {"<image stem>": {"<label>": "RBC"}}}

A class is given by its name or its index. Without a table every cell has the class "cell".
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import tifffile
from pydantic import BaseModel, Field
from skimage.measure import regionprops

from training.datasets.annotated import (
    AnnotatedCell,
    AnnotatedDataset,
    AnnotatedFrame,
    AnnotationError,
)
from training.datasets.readers.files import STEM, by_name, image_size, images_in, parse, read_json

LABEL_SUFFIXES = (".png", ".tif", ".tiff")
CLASS_TABLE = "classes.json"


class _ClassTable(BaseModel):
    class_names: list[str] = Field(min_length=1)
    classes: dict[str, dict[int, int | str]]  # image stem -> label -> class index or name


def label_files(directory: Path) -> dict[str, Path]:
    """Label images in ``directory/labels`` by stem. Raises AnnotationError if two share a stem."""
    files = sorted((directory / "labels").glob("*"))
    return by_name((f for f in files if f.suffix.lower() in LABEL_SUFFIXES), STEM)


def read_label_images(directory: Path) -> AnnotatedDataset:
    """Read ``images/``, ``labels/`` and the class table. Raises AnnotationError."""
    images = by_name(images_in(directory / "images"), STEM)
    labels = label_files(directory)
    for stem in sorted(labels.keys() - images.keys()):
        raise AnnotationError(
            labels[stem], "", f"has no image '{stem}' in {directory / 'images'}; add the image"
        )
    for stem in sorted(images.keys() - labels.keys()):
        reason = "has no label image; add one, of zeros if the frame has no cell"
        raise AnnotationError(directory / "labels", images[stem].name, reason)
    class_names: tuple[str, ...] = ("cell",)
    class_ids: dict[str, dict[int, int]] | None = None
    if (directory / CLASS_TABLE).exists():
        class_names, class_ids = _read_classes(directory / CLASS_TABLE, images)
    frames = []
    for stem, image in images.items():
        height, width = image_size(image)
        label_image = read_label_image(labels[stem], height, width)
        of_label = None if class_ids is None else class_ids.get(stem, {})
        cells = labelled_cells(label_image, of_label, labels[stem])
        frames.append(AnnotatedFrame(image, height, width, cells))
    return AnnotatedDataset(class_names, tuple(frames))


def _read_classes(
    path: Path, images: Collection[str]
) -> tuple[tuple[str, ...], dict[str, dict[int, int]]]:
    """Read the class names, and for each image stem the class index of each label."""
    table = parse(_ClassTable, read_json(path), path)
    names = table.class_names
    indices: dict[int | str, int] = {name: index for index, name in enumerate(names)}
    indices.update((index, index) for index in range(len(names)))
    for stem, classes in table.classes.items():
        if stem not in images:
            reason = "is not in images/; correct the file name (without suffix)"
            raise AnnotationError(path, f"image '{stem}'", reason)
        for label, name in classes.items():
            if name not in indices:
                reason = f"is of class {name!r}; give one of {names} or its index"
                raise AnnotationError(path, f"image '{stem}', label {label}", reason)
    by_stem = {s: {label: indices[n] for label, n in c.items()} for s, c in table.classes.items()}
    return tuple(names), by_stem


def read_label_image(path: Path, height: int, width: int) -> npt.NDArray[np.integer[Any]]:
    """Read the label image of a frame of ``height`` x ``width``: integers ``[H, W]``."""
    labels = _pixels(path)
    if labels.ndim != 2 or labels.dtype.kind not in "bui":
        given = f"{labels.dtype} of shape {list(labels.shape)}"
        raise AnnotationError(path, "", f"is {given}; save integers, one channel")
    if labels.shape != (height, width):
        reason = f"has {labels.shape[1]} x {labels.shape[0]} pixels, its image {width} x {height}"
        raise AnnotationError(path, "", f"{reason}; save it at the size of the image")
    if labels.size and labels.min() < 0:
        raise AnnotationError(path, f"label {labels.min()}", "is negative; 0 is background")
    return labels


def _pixels(path: Path) -> npt.NDArray[Any]:
    """Read the file's raw numbers: labels may have dtypes that no camera frame has."""
    try:
        if path.suffix.lower() != ".png":
            return np.asarray(tifffile.imread(path))
        data = np.fromfile(path, np.uint8)
    except (OSError, ValueError) as error:
        reason = f"cannot be read as an image ({error}); replace the file"
        raise AnnotationError(path, "", reason) from error
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    if image is None:
        raise AnnotationError(path, "", "is empty, damaged or no image; replace the file")
    return np.asarray(image)


def labelled_cells(
    labels: npt.NDArray[np.integer[Any]], class_ids: dict[int, int] | None, path: Path
) -> tuple[AnnotatedCell, ...]:
    """Make one cell per label, in order of the labels; all of class 0 if ``class_ids`` is None."""
    values, dense = np.unique(labels, return_inverse=True)
    background = int(values[0] == 0)
    dense = dense.reshape(labels.shape) + 1 - background  # 0 is background, i the i-th cell
    cells = []
    for region in regionprops(dense):
        label = int(values[region.label - 1 + background])
        if class_ids is not None and label not in class_ids:
            reason = f"has no class in {CLASS_TABLE}; add it to the table"
            raise AnnotationError(path, f"label {label}", reason)
        class_id = 0 if class_ids is None else class_ids[label]
        y, x, *_ = region.bbox
        cells.append(AnnotatedCell(x=x, y=y, mask=region.image, class_id=class_id))
    return tuple(cells)
