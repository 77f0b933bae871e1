"""Pictures of an answer to look at: the outlines on the frame, and the probability."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy.typing as npt

from cytoserve import Foreground
from cytoserve.overlay import draw_foreground


def save_pictures(
    folder: Path, name: str, frame: npt.NDArray[Any], foreground: Foreground
) -> tuple[Path, Path]:
    """Write ``NAME_overlay.png`` and ``NAME_probability.png`` (8-bit grey, at the frame's size).

    Raises:
        OSError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    overlay, probability = folder / f"{name}_overlay.png", folder / f"{name}_probability.png"
    pictures = {overlay: draw_foreground(frame, foreground)[:, :, ::-1]}  # cv2 is BGR
    for file, picture in {**pictures, probability: foreground.probability}.items():
        if not cv2.imwrite(str(file), picture):
            raise OSError(f"{file} could not be written; is the disk full?")
    return overlay, probability
