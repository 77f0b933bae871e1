"""Reference for the chains: what the library that trained a network finds in a frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from training.preprocessing.normalise import PercentileLevels, as_rgb, to_8_bit


@dataclass(frozen=True)
class ReferenceCells:
    """Cells that a library finds in one frame, sorted by score."""

    boxes: npt.NDArray[np.float32]
    """Boxes ``[N, 4]``, (x0, y0, x1, y1) in frame pixels."""
    scores: npt.NDArray[np.float32]
    """Scores ``[N]``."""
    class_ids: npt.NDArray[np.int64]
    """Class ids ``[N]``."""
    masks: npt.NDArray[np.bool_]
    """Masks ``[N, H, W]``."""
    probabilities: npt.NDArray[np.float32] | None = None
    """Probabilities ``[N, H, W]``, 0..1, that masks are cut from; None if the library has none."""
    doubtful: npt.NDArray[np.bool_] | None = None
    """Flags ``[N]``, whether a cell might be left out, see `export.parity.reference_merge`."""


class Detector(Protocol):
    """A trained network, run by the library that trained it."""

    library: str
    """Name of the library."""

    def cells(
        self,
        camera: npt.NDArray[np.generic],
        scale: float,
        tile_overlap: float,
        score_threshold: float,
        overlap_threshold: float,
    ) -> ReferenceCells:
        """Find the cells of a camera frame ``[H, W]`` or ``[H, W, C]``, tile by tile.

        The tiles are merged by `export.parity.reference_merge`.

        Args:
            camera: the frame.
            scale: network pixels per frame pixel.
            tile_overlap: minimum overlap of neighbouring tiles in network pixels.
            score_threshold: score that a cell's score must exceed.
            overlap_threshold: share of the smaller mask above which one of two cells is dropped.
        """


def normalised_rgb(image: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """A camera frame ``[H, W]`` or ``[H, W, C]`` as the 8-bit RGB image of the study scripts."""
    camera = torch.from_numpy(np.atleast_3d(image).astype(np.int32))
    values = to_8_bit(camera.float(), PercentileLevels()(camera))
    rgb: npt.NDArray[np.uint8] = as_rgb(values, channel_dim=2).numpy()
    return rgb
