"""What a library that trained a network finds in a frame: what chains are proven equal to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from training.preprocessing.normalise import PercentileLevels, as_rgb, to_8_bit


@dataclass(frozen=True)
class ReferenceCells:
    """What a library finds in one frame, sorted by score."""

    boxes: npt.NDArray[np.float32]
    """``[N, 4]`` (x0, y0, x1, y1) in frame pixels."""
    scores: npt.NDArray[np.float32]
    """``[N]``."""
    class_ids: npt.NDArray[np.int64]
    """``[N]``."""
    masks: npt.NDArray[np.bool_]
    """``[N, H, W]``."""
    probabilities: npt.NDArray[np.float32] | None = None
    """``[N, H, W]``, 0..1, that the masks are cut from; None where the library keeps none."""
    doubtful: npt.NDArray[np.bool_] | None = None
    """``[N]``, whether a cell might as well be left out, see `export.parity.reference_merge`."""


class Detector(Protocol):
    """A trained network in the hands of the library that trained it."""

    library: str
    """Its name."""

    def cells(
        self,
        camera: npt.NDArray[np.generic],
        scale: float,
        tile_overlap: float,
        score_threshold: float,
        overlap_threshold: float,
    ) -> ReferenceCells:
        """What it finds in a camera frame ``[H, W]`` or ``[H, W, C]``, tile by tile, merged by
        `export.parity.reference_merge`.

        Args:
            camera: the frame.
            scale: network pixels per frame pixel.
            tile_overlap: least overlap of neighbouring tiles in network pixels.
            score_threshold: a cell's score is above it.
            overlap_threshold: share of the smaller mask above which one of two cells is dropped.
        """


def normalised_rgb(image: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """The camera frame ``[H, W]`` or ``[H, W, C]`` as the 8-bit RGB image of study scripts."""
    camera = torch.from_numpy(np.atleast_3d(image).astype(np.int32))
    values = to_8_bit(camera.float(), PercentileLevels()(camera))
    rgb: npt.NDArray[np.uint8] = as_rgb(values, channel_dim=2).numpy()
    return rgb
