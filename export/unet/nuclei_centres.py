"""The step `nuclei_centres`: nuclei as points, from a frame's probability."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from training.checkpoint import CheckpointError

QUANTUM = 16
"""Steps per grey level to which the smoothed probability is rounded.

Rounding errors of different summation orders must not choose between neighbours."""

RAMP = 64
"""Period, in pixels, of the ramp that breaks ties.

The grid of tiles is a multiple of it, so parts of a frame that begin at a tile have the same
centres as the whole."""

LARGEST_RADIUS = 24
"""Largest supported radius of nuclei, in frame pixels.

Up to this radius, the neighbourhood of a pixel, 49 pixels wide, holds no value of the ramp twice.
What decides on a centre (24 pixels of neighbourhood, 36 of smoothing and 3 of cleaning around it)
stays within `TILE_MARGIN`: a client that sends a frame in parts overlaps them by that much more
than tiles need."""

FULL = 255 * QUANTUM
"""Value of the smoothed probability 1.

``FULL * RAMP**2`` is below 2**24, so float32 holds all keys exactly."""


class NucleiCentres(nn.Module):
    """Peaks of the smoothed probability, one per nucleus.

    The probability is smoothed by a Gaussian of half the nuclei's radius, with the edge pixels
    repeated beyond the frame. A pixel is a centre if it is the highest within the radius (in a
    square of ``2 * radius + 1`` pixels) and at or above the threshold. Among equal neighbours, the
    one farthest down, then right, within the period of the ramp is taken.

    Args:
        radius: radius of the discs that the network was trained on, in frame pixels; 1 to
            ``LARGEST_RADIUS``.

    Raises:
        CheckpointError: the radius is outside this range.
    """

    kernel: Tensor

    def __init__(self, radius: float) -> None:
        super().__init__()
        if not 1 <= radius <= LARGEST_RADIUS:
            raise CheckpointError(
                f"nuclei of radius {radius:g} px cannot be told apart: 1 to {LARGEST_RADIUS} px "
                "are supported. Train with --radius within these."
            )
        sigma = radius / 2
        self.reach = math.ceil(3 * sigma)
        self.window = math.floor(radius)
        offsets = torch.arange(-self.reach, self.reach + 1, dtype=torch.float64)
        kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
        self.register_buffer("kernel", (kernel / kernel.sum()).float(), persistent=False)

    def forward(
        self, frame_probability: Tensor, probability_threshold: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Find the centres in ``frame_probability`` uint8 ``[1, H, W]``; threshold float32 ``[1]``.

        Returns ``centres`` float32 ``[N, 2]``, (x, y) in continuous frame pixels, and
        ``centre_scores`` float32 ``[N]``, the smoothed probability there, 0..1, descending; equal
        ones row by row of the frame.
        """
        smoothed = torch.round(self._smooth(frame_probability.float()[None]) * QUANTUM)[0, 0]
        shape = torch._shape_as_tensor(smoothed)
        width = shape[1]
        ramp = _ramp(shape[0])[:, None] * RAMP + _ramp(width)
        keys = smoothed * RAMP**2 + ramp.float()
        scores = smoothed / FULL
        peaks = (keys == self._highest(keys)) & (scores >= probability_threshold)
        places = torch.nonzero(peaks.flatten())[:, 0]
        found = scores.flatten().index_select(0, places)
        # No two keys are equal, so every implementation of sort gives the same order.
        levels = torch.round(found * FULL).to(torch.int64)
        order = torch.sort(levels * shape.prod() - places, descending=True).indices
        places, found = places.index_select(0, order), found.index_select(0, order)
        rows = torch.div(places, width, rounding_mode="floor")
        centres = torch.stack([places - rows * width, rows], dim=1).float() + 0.5
        return centres, found

    def _smooth(self, values: Tensor) -> Tensor:
        reach = self.reach
        padded = nn.functional.pad(values, (reach, reach, reach, reach), mode="replicate")
        along = nn.functional.conv2d(padded, self.kernel.view(1, 1, 1, -1))
        return nn.functional.conv2d(along, self.kernel.view(1, 1, -1, 1))

    def _highest(self, keys: Tensor) -> Tensor:
        """The highest of ``keys`` ``[H, W]``, all >= 0, within the window around each."""
        return _highest_along(_highest_along(keys.T, self.window).T, self.window)


def _highest_along(keys: Tensor, reach: int) -> Tensor:
    """The highest within ``reach`` rows above and below.

    Windows double from one row to two, four and so on. This takes 6 comparisons per pixel for a
    reach of 16, where max-pooling takes 33.
    """
    keys = nn.functional.pad(keys, [0, 0, reach, reach])
    window, seen = 2 * reach + 1, 1
    while seen < window:
        step = min(seen, window - seen)
        keys = torch.maximum(keys[:-step], keys[step:])
        seen += step
    return keys


def _ramp(length: Tensor) -> Tensor:
    indices: Tensor = torch.arange(length)  # type: ignore[call-overload]  # not a number
    return indices % RAMP
