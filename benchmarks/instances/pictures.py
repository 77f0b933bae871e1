"""Draws the frame, the truth and what every pipeline found, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.harness.pictures import write_picture
from cytoserve import Cells
from cytoserve.contract import SAM_MASK_SIZE
from cytoserve.overlay import Picture, add_legend, draw_overlay, frame_picture
from training.datasets.annotated import AnnotatedFrame

GAP = 12
"""Distance between two columns in pixels."""


def annotated_cells(frame: AnnotatedFrame, class_names: tuple[str, ...]) -> Cells:
    """Return the annotated cells as a certain answer of a pipeline; overlaps stay."""
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
    """Return uint8 RGB ``[h, w, 3]``: the frame, then a column per title, as in S4's figure 1.

    Args:
        image: camera frame that `cytoserve.frames.to_wire` accepts.
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
    """Write `draw_columns` to ``NAME.png``.

    Raises:
        OSError: the file cannot be written.
    """
    file = folder / f"{name}.png"
    write_picture(file, draw_columns(image, columns))
    return file
