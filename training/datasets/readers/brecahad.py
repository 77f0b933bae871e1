"""BreCaHAD: ``images/`` and ``groundTruth/``, the centres of nuclei in stained tissue (study S3).

Each image has a JSON file of the same stem. It lists, for each of six classes, centres ``{"x": ...,
"y": ...}`` as fractions of the image's width and height. Only the nuclei of tumour cells and of
other cells are read. A file name starts with the patient's case, as in ``Case_10-03.jpg``.
https://doi.org/10.1186/s13104-019-4121-7

The authors give no outlines, so masks are discs around the centres.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from cytoserve.images import read_frame
from training.datasets.annotated import AnnotationError
from training.datasets.readers.files import STEM, by_name, image_size, images_in, parse, read_json

IMAGES = "images"
ANNOTATIONS = "groundTruth"

NUCLEI = ("tumor", "non_tumor")
"""Classes that are read, under the authors' names."""

RADIUS = 16.0
"""Default radius of a nucleus, in pixels of the authors' 1360 x 1024 images. Half of a typical
tumour nucleus measures 13 to 18 pixels in cases 10 and 11 and 18 to 28 in case 12: discs of radius
16 fit the nuclei of all three, and nine out of ten touch no other disc."""

_CASE = re.compile(r"(Case_\d+)-\d+")


@dataclass(frozen=True, eq=False)
class PointFrame:
    """One image file and the centres of its nuclei. A frame without nuclei is an ordinary frame."""

    path: Path
    annotation: Path
    """JSON file that the centres come from."""
    height: int
    width: int
    case: str
    """Case of the patient, such as ``Case_10``. Frames of one case show the same tissue."""
    points: Mapping[str, npt.NDArray[np.float32]]
    """Class (one of ``NUCLEI``) -> centres float32 ``[N, 2]``, (x, y) in frame pixels."""

    def read(self) -> npt.NDArray[np.uint8]:
        """Read the image: uint8 ``[H, W, 3]``, RGB.

        Raises AnnotationError for an image of another kind, and what
        :func:`cytoserve.images.read_frame` raises.
        """
        image: npt.NDArray[Any] = read_frame(self.path)
        if image.ndim != 3 or image.dtype != np.uint8:
            given = f"{image.dtype} of shape {list(image.shape)}"
            raise AnnotationError(self.path, "", f"is {given}; save it as RGB of 8 bits a channel")
        return image

    def nuclei(self) -> npt.NDArray[np.float32]:
        """Centres of all nuclei of any class: float32 ``[N, 2]``, (x, y)."""
        return np.concatenate([self.points[name] for name in NUCLEI])


class _Point(BaseModel):
    x: float
    y: float


class _GroundTruth(BaseModel):
    tumor: list[_Point]
    non_tumor: list[_Point]
    # Not used, but required: a file without them is not the authors', and may lack nuclei too.
    mitosis: list[_Point]
    apoptosis: list[_Point]
    tubule: list[_Point]
    non_tubule: list[_Point]


def read_brecahad(folder: Path) -> tuple[PointFrame, ...]:
    """Read ``images/`` and ``groundTruth/`` in ``folder``; frames are ordered by file name.

    Raises AnnotationError, which names the file, the entry, the reason and the remedy, for an image
    without JSON or the reverse, a missing class, or a centre outside the image.
    """
    folder = Path(folder)
    images = by_name(images_in(folder / IMAGES), STEM)
    annotations = {file.stem: file for file in sorted((folder / ANNOTATIONS).glob("*.json"))}
    if not images:
        reason = "holds no image; give the folder that has images/ and groundTruth/"
        raise AnnotationError(folder / IMAGES, "", reason)
    for stem in sorted(images.keys() - annotations.keys()):
        reason = f"has no {ANNOTATIONS}/{stem}.json; add the file, or take the image out"
        raise AnnotationError(images[stem], "", reason)
    for stem in sorted(annotations.keys() - images.keys()):
        reason = f"has no image '{stem}' in {folder / IMAGES}; add the image"
        raise AnnotationError(annotations[stem], "", reason)
    return tuple(_frame(image, annotations[stem]) for stem, image in images.items())


def _frame(image: Path, annotation: Path) -> PointFrame:
    case = _CASE.match(image.stem)
    if not case:
        reason = "does not name its case; call it as the authors do, such as Case_10-03"
        raise AnnotationError(image, "", reason)
    height, width = image_size(image)
    truth = parse(_GroundTruth, read_json(annotation), annotation)
    for name in _GroundTruth.model_fields:
        _check(getattr(truth, name), name, annotation)
    points = {name: _pixels(getattr(truth, name), height, width) for name in NUCLEI}
    return PointFrame(image, annotation, height, width, case[1], points)


def _check(points: list[_Point], name: str, path: Path) -> None:
    for index, point in enumerate(points):
        if not (0 <= point.x <= 1 and 0 <= point.y <= 1):  # also for NaN
            reason = (
                f"has its centre at ({point.x:g}, {point.y:g}); give fractions of the image's "
                "width and height, 0 to 1"
            )
            raise AnnotationError(path, f"{name}[{index}]", reason)


def _pixels(points: list[_Point], height: int, width: int) -> npt.NDArray[np.float32]:
    fractions = np.array([(point.x, point.y) for point in points], np.float32).reshape(-1, 2)
    return fractions * np.array([width, height], np.float32)


def disc_labels(
    points: npt.NDArray[np.float32], shape: tuple[int, int], radius: float
) -> npt.NDArray[np.int32]:
    """Label image ``[H, W]`` of discs: 0 is background, i the disc of the i-th point, from 1.

    A pixel belongs to a disc if its centre is at most ``radius`` pixels from the point. Where discs
    overlap, it belongs to the nearest point. ``points`` are ``[N, 2]``, (x, y) in frame pixels;
    pixel ``i`` spans ``[i, i + 1)``. A disc has at least one pixel, that of its point, even if
    ``radius`` is small. Discs are clipped at the border of the frame.

    Raises ValueError if the radius is not above 0.
    """
    if not (math.isfinite(radius) and radius > 0):
        raise ValueError(f"a disc needs a radius above 0 pixels; got {radius}")
    height, width = shape
    labels = np.zeros(shape, np.int32)
    nearest = np.full(shape, np.inf, np.float32)
    for label, (x, y) in enumerate(points.tolist(), start=1):
        row, column = min(int(y), height - 1), min(int(x), width - 1)
        top, bottom = max(math.floor(y - radius), 0), min(math.ceil(y + radius), height)
        left, right = max(math.floor(x - radius), 0), min(math.ceil(x + radius), width)
        rows, columns = np.ogrid[top:bottom, left:right]
        distance = np.hypot(rows + 0.5 - y, columns + 0.5 - x)
        distance[row - top, column - left] = min(distance[row - top, column - left], radius)
        window = (slice(top, bottom), slice(left, right))
        mine = (distance <= radius) & (distance < nearest[window])
        labels[window][mine] = label
        nearest[window][mine] = distance[mine]
    return labels


def disc_mask(
    points: npt.NDArray[np.float32], shape: tuple[int, int], radius: float
) -> npt.NDArray[np.bool_]:
    """Mask bool ``[H, W]`` of the pixels that lie on a disc, in a frame of ``shape`` (H, W).

    See :func:`disc_labels`.
    """
    return disc_labels(points, shape, radius) > 0
