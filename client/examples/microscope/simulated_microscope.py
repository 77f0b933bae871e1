"""A microscope without hardware: its camera shows the part of a picture under its stage.

The examples use it, so that they run anywhere. On yours, write ``core = CMMCorePlus()`` and
``core.loadSystemConfiguration("my.cfg")`` in place of ``microscope(...)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mm_test_adapters import device_adapter_path
from numpy.typing import DTypeLike, NDArray
from pymmcore_plus import configure_logging
from pymmcore_plus.experimental.unicore import SimpleCameraDevice, UniMMCore

SIDE_PX = 512
"""Side of the camera's sensor."""


class Camera(SimpleCameraDevice):
    """Shows ``pictures`` one after the other, and the last one on and on.

    A picture is uint8 ``[H, W]``, of 1 micrometre per pixel. Its middle lies at the stage's (0, 0).
    """

    def __init__(self, stand: UniMMCore, pictures: list[NDArray[np.uint8]]) -> None:
        super().__init__()
        self.stand, self.pictures, self.taken, self.exposure_ms = stand, pictures, 0, 10.0

    def snap(self, buffer: NDArray[np.generic]) -> Mapping[str, Any]:
        """Copy the part that the objective shows; beyond its edge, the picture is mirrored."""
        picture = self.pictures[min(self.taken, len(self.pictures) - 1)]
        self.taken += 1
        size, (x, y) = self.stand.getPixelSizeUm(), self.stand.getXYPosition()
        middle = np.array([x + picture.shape[1] / 2, y + picture.shape[0] / 2])
        left, top = middle - SIDE_PX / 2 * size + size / 2 - 0.5  # a pixel's centre is its place
        inverse = np.array([[size, 0, left], [0, size, top]])
        buffer[:] = cv2.warpAffine(
            picture,
            inverse,
            (SIDE_PX, SIDE_PX),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT,
        )
        return {}

    def sensor_shape(self) -> tuple[int, int]:
        """Return height and width."""
        return SIDE_PX, SIDE_PX

    def dtype(self) -> DTypeLike:
        """Return the type of a pixel."""
        return np.uint8

    def get_exposure(self) -> float:
        """Return the exposure in milliseconds."""
        return self.exposure_ms

    def set_exposure(self, exposure: float) -> None:
        """Set the exposure in milliseconds."""
        self.exposure_ms = exposure


def microscope(*pictures: NDArray[np.uint8]) -> UniMMCore:
    """Return a core with Micro-Manager's demo stage and objectives, and a camera of pictures.

    The objectives 10x, 20x and 40x show 1, 0.5 and 0.25 micrometres per pixel.
    """
    configure_logging(stderr_level="WARNING")
    core, folder = UniMMCore(), Path(device_adapter_path())
    core.setDeviceAdapterSearchPaths([str(folder)])
    core.loadSystemConfiguration(str(folder / "MMConfig_demo.cfg"))
    core.loadPyDevice("Pictures", Camera(core, list(pictures)))
    core.initializeDevice("Pictures")
    core.setCameraDevice("Pictures")
    for name, size_um in (("Res10x", 1.0), ("Res20x", 0.5), ("Res40x", 0.25)):
        core.setPixelSizeUm(name, size_um)
        core.setPixelSizeAffine(name, (size_um, 0, 0, 0, size_um, 0))
    core.setConfig("Objective", "10X")
    return core


def grow(picture: NDArray[np.uint8], steps: int) -> list[NDArray[np.uint8]]:
    """Return pictures in which the cells appear from left to right, as if they divided."""
    empty = np.full_like(picture, np.median(picture))
    across = np.arange(picture.shape[1])
    return [
        np.where(across < picture.shape[1] * i // steps, picture, empty)
        for i in range(1, steps + 1)
    ]
