"""Pictures as files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt


def write_picture(file: Path, picture: npt.NDArray[np.uint8]) -> None:
    """Write uint8 RGB ``[H, W, 3]`` or grey ``[H, W]`` as an image file, in a new folder if needed.

    Raises:
        OSError: the file cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(file), picture[:, :, ::-1] if picture.ndim == 3 else picture):  # BGR
        raise OSError(f"{file} could not be written; is the disk full?")
