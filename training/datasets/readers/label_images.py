"""Label images: plain folders of them, and the sequences of the Cell Tracking Challenge.

A label image is an integer PNG or TIFF: 0 is background, every other value is one cell.

**Plain folders** hold ``images/``, ``labels/`` with one label image per frame, which has the stem
and the size of its image, and ``classes.json``. A frame without cells has a label image of zeros.
If the cells have several classes, the class table lists them::

    {"class_names": ["RBC", "WBC"], "classes": {"<image stem>": {"<label>": "RBC"}}}

A class is given by its name or its index. Without a table every cell has the class "cell".

**Cell Tracking Challenge**: sequences of frames, some of them with segmentation truth::

    01/t000.tif                 frame 0 of sequence 01
    01_GT/SEG/man_seg000.tif    gold truth: annotated by people, for some frames
    01_ST/SEG/man_seg000.tif    silver truth: consensus of several algorithms, for most frames

Numbers have three or four digits. Label images are TIFFs. If a frame has both truths, the gold one
is used. Only sequences of 2D images are read.
"""

from __future__ import annotations

import logging
import re
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


GOLD, SILVER = "GT", "ST"
SEQUENCE = re.compile(r"\d\d")
FRAME = re.compile(r"t(\d{3,4})\.tiff?", re.IGNORECASE)
TRUTH = re.compile(r"man_seg(\d{3,4})\.tiff?", re.IGNORECASE)
TRUTH_OF_A_SLICE = re.compile(r"man_seg_\d+_\d+\.tiff?", re.IGNORECASE)

ONLY_PLANES = "only plane images are read, so take a data set whose name has 2D in it"

_log = logging.getLogger(__name__)


def truth_folders(directory: Path) -> list[Path]:
    """List the folders ``NN_GT/SEG`` and ``NN_ST/SEG`` in ``directory``."""
    return sorted(
        folder
        for kind in (GOLD, SILVER)
        for folder in directory.glob(f"*_{kind}/SEG")
        if folder.is_dir() and SEQUENCE.fullmatch(folder.parent.name.removesuffix(f"_{kind}"))
    )


def read_cell_tracking(directory: Path) -> AnnotatedDataset:
    """Read every sequence in ``directory``; frame 0 of sequence 01 is called ``01_t000``.

    Frames without truth are left out; a warning from this module's logger states their number.

    Raises AnnotationError, which names the file, the reason and the remedy.
    """
    numbers = {folder.parent.name[:2] for folder in truth_folders(directory)}
    numbers |= {p.name for p in directory.iterdir() if p.is_dir() and SEQUENCE.fullmatch(p.name)}
    frames: list[AnnotatedFrame] = []
    left_out = 0
    for number in sorted(numbers):
        images = _by_frame(directory / number, FRAME)
        truths = _truths(directory, number)
        for index in sorted(truths.keys() - images.keys()):
            reason = f"has no frame t{index}.tif in {directory / number}; add the image"
            raise AnnotationError(truths[index], "", reason)
        left_out += len(images) - len(truths)
        frames += (_read_frame(images[i], truths[i], number) for i in sorted(truths))
    if not frames:
        reason = (
            f"none of {left_out} frames has a man_segNNN.tif in {GOLD} or {SILVER}; download the "
            "training data set, for the challenge's test data set has none"
        )
        raise AnnotationError(directory, "", reason)
    if left_out:
        _log.warning(
            "%s: %d frames have no segmentation truth and are left out, %d have one.",
            directory,
            left_out,
            len(frames),
        )
    return AnnotatedDataset(("cell",), tuple(frames))


def _truths(directory: Path, number: str) -> dict[str, Path]:
    """Label image of each frame that has one, keyed by the frame's number."""
    truths: dict[str, Path] = {}
    for kind in (SILVER, GOLD):  # gold last, so that it replaces silver
        truths |= _by_frame(directory / f"{number}_{kind}" / "SEG", TRUTH)
    return truths


def _by_frame(folder: Path, pattern: re.Pattern[str]) -> dict[str, Path]:
    """TIFF files in a folder, which may be absent, keyed by the number in their names."""
    files: dict[str, Path] = {}
    for file in sorted(folder.glob("*")):
        if file.suffix.lower() not in (".tif", ".tiff"):
            continue
        if TRUTH_OF_A_SLICE.fullmatch(file.name):
            raise AnnotationError(file, "", f"is the truth of one slice of a stack; {ONLY_PLANES}")
        match = pattern.fullmatch(file.name)
        if match is None:
            expected = "tNNN.tif" if pattern is FRAME else "man_segNNN.tif"
            reason = f"is not named {expected}; rename it, or move it elsewhere"
            raise AnnotationError(file, "", reason)
        if match[1] in files:
            reason = f"is of the same frame as {files[match[1]].name}; remove one of them"
            raise AnnotationError(file, "", reason)
        files[match[1]] = file
    return files


def _read_frame(image: Path, truth: Path, number: str) -> AnnotatedFrame:
    height, width = image_size(image)
    with tifffile.TiffFile(image) as tiff:
        slices = len(tiff.pages)
    if slices > 1:
        raise AnnotationError(image, "", f"is a stack of {slices} slices; {ONLY_PLANES}")
    cells = labelled_cells(read_label_image(truth, height, width), None, truth)
    return AnnotatedFrame(image, height, width, cells, name=f"{number}_{image.stem}")
