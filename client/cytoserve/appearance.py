"""The look of a frame to a network: grey or in colour, on a dark or on a bright background.

Training records it of its frames, and the client compares each frame with them. Both measure here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

GREY, COLOUR = "grey", "colour"

SAMPLED_SIDE = 256
"""Number of rows and of columns that are looked at, at most: a frame's look needs no more."""

COLOUR_SHARE = 0.02
"""Mean distance of the channels from their mean, as a share of the frame's range, from which a
frame is in colour. Stained tissue and blood smears have 0.037 and more; grey frames that were saved
with three channels have 0 to 0.001."""


@dataclass(frozen=True)
class Appearance:
    """The look of one frame.

    Attributes:
        kind: ``grey`` or ``colour``. Three channels that are almost equal are grey.
        background: its median pixel, as a share of the range from its 1st to its 99th percentile:
            0 to 0.2 for fluorescence, 0.8 to 1 for bright field. None for a frame of one value.
    """

    kind: str
    background: float | None


def frame_appearance(frame: NDArray[Any]) -> Appearance:
    """Measure what a frame ``[H, W]`` or ``[H, W, C]`` of any dtype looks like, C 1 or 3."""
    rows, columns = (-(-side // SAMPLED_SIDE) for side in frame.shape[:2])
    pixels = np.atleast_3d(frame)[::rows, ::columns].astype(np.float32)
    grey = pixels.mean(axis=2)
    low, median, high = (float(value) for value in np.percentile(grey, (1, 50, 99)))
    away = float(np.abs(pixels - grey[..., np.newaxis]).mean())
    return Appearance(
        COLOUR if away > COLOUR_SHARE * float(np.ptp(pixels)) else GREY,
        (median - low) / (high - low) if high > low else None,
    )
