"""Instances to look at: the frame, the truth and what every pipeline found, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from cytoserve import Cells
from cytoserve.contract import SAM_MASK_SIZE
from cytoserve.overlay import draw_overlay
from cytoserve.picture import Picture, add_legend, frame_picture
from training.datasets.annotated import AnnotatedFrame

GAP = 12
"""Pixels between two columns."""


def annotated_cells(frame: AnnotatedFrame, class_names: tuple[str, ...]) -> Cells:
    """The annotated cells as a pipeline would answer them with certainty; overlaps stay."""
    class_ids = np.array([cell.class_id for cell in frame.cells], np.int32)
    size = (SAM_MASK_SIZE, SAM_MASK_SIZE)
    patches = [cv2.resize(np.uint8(255) * cell.mask, size) for cell in frame.cells]
    return Cells(
        boxes=np.array([cell.box for cell in frame.cells], np.float32).reshape(-1, 4),
        scores=np.ones(len(frame.cells), np.float32),
        class_ids=class_ids,
        class_probs=np.eye(len(class_names), dtype=np.float32)[class_ids],
        patches=np.array(patches, np.uint8).reshape(-1, *size),
        frame_shape=(frame.height, frame.width),
        class_names=class_names,
        found=len(frame.cells),
    )


def draw_columns(image: npt.NDArray[Any], columns: Mapping[str, Cells]) -> Picture:
    """Return uint8 RGB ``[h, w, 3]``: the frame, then one column a title, as figure 1 of study S4.

    Args:
        image: the camera frame, as :func:`cytoserve.frames.to_wire` takes it.
        columns: title -> cells of that frame.
    """
    drawn = {"Image": add_legend(frame_picture(image), [], f"{image.shape[1]} x {image.shape[0]}")}
    drawn |= {title: draw_overlay(image, cells) for title, cells in columns.items()}
    titled = [add_legend(picture, [], title) for title, picture in drawn.items()]
    height = max(len(picture) for picture in titled)  # legends may have lines of their own
    return np.concatenate(
        [np.pad(p, ((0, height - len(p)), (0, GAP), (0, 0))) for p in titled], axis=1
    )[:, :-GAP]


def save_columns(
    folder: Path, name: str, image: npt.NDArray[Any], columns: Mapping[str, Cells]
) -> Path:
    """Write ``NAME.png`` of :func:`draw_columns`.

    Raises:
        OSError: the file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.png"
    if not cv2.imwrite(str(file), draw_columns(image, columns)[:, :, ::-1]):  # cv2 is BGR
        raise OSError(f"{file} could not be written; is the disk full?")
    return file
