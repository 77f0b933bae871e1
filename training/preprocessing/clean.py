"""Cleaning of stained tissue (study S3): Gaussian 5x5, sharpening 3x3, median 3x3, in this order.

This is the only cleaning in the project: this module makes the training images, and the graph used
in serving is exported from it.

Values are rounded to whole grey levels after every stage, as OpenCV does on 8-bit images, so the
result is that of ``cv2.GaussianBlur(image, (5, 5), 0)``, ``cv2.filter2D`` and
``cv2.medianBlur(image, 3)``. Borders are OpenCV's defaults: the two filters mirror the frame
about its border pixels (``gfedcb|abcdefgh|gfedcba``, reflect-101), the median repeats them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def mirrored(positions: Tensor, length: Tensor) -> Tensor:
    """Map ``positions`` to the pixels of a side of ``length`` >= 1 pixels that they show.

    Beyond the ends of the side, a position shows the mirror image. The last pixel is not repeated
    (``c b | a b c | b a``, OpenCV's reflect-101), and the mirroring continues endlessly. A side of
    a single pixel is repeated. Positions are integers of any shape. ``length`` is a tensor, so that
    a traced graph accepts any size.
    """
    period = torch.clamp(2 * (length - 1), min=1)
    within = torch.remainder(positions, period)
    return torch.minimum(within, period - within)


def reflect_pad(values: Tensor, dim: int, before: int, after: Any) -> Tensor:
    """Extend ``values`` by ``before`` and ``after`` mirrored pixels at the ends of ``dim``.

    ``after`` may be a tensor, if it depends on the frame's size. The inside of the frame is copied
    as a whole, which is faster than gathering its pixels.
    """
    length = torch._shape_as_tensor(values)[dim]
    first = mirrored(torch.arange(before) - before, length)
    last = mirrored(torch.arange(after) + length, length)
    return torch.cat([values.index_select(dim, first), values, values.index_select(dim, last)], dim)


REACH = 3
"""Pixels beyond the frame that its cleaned border depends on: 2 for the Gaussian, 1 for sharpening.
The median adds none, since it repeats the border."""


class Clean(nn.Module):
    """Cleans whole frames of any size, from one pixel up."""

    def forward(self, values: Tensor) -> Tensor:
        """Clean ``values`` float32 ``[1, C, H, W]``, whole grey levels 0..255; the output is alike.

        C is fixed in an export, H and W are not.
        """
        # One channel at a time, so that its stages stay in the CPU's cache: 15 % faster, with a
        # third of the memory.
        channels = [_clean(values[:, i : i + 1]) for i in range(values.shape[1])]
        return torch.cat(channels, dim=1)


def _clean(values: Tensor) -> Tensor:
    # A symmetric kernel leaves a mirrored frame mirrored, so one border serves both filters.
    for dim in (2, 3):
        values = reflect_pad(values, dim, REACH, REACH)
    return _median(_sharpened(_blurred(values)))


def clean_image(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Clean ``image`` uint8 ``[H, W, C]``; the result has the same shape and dtype."""
    with torch.inference_mode():
        values = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float()
        cleaned = Clean()(values[None])[0].to(torch.uint8).permute(1, 2, 0)
    return np.ascontiguousarray(cleaned.numpy())


def _blurred(values: Tensor) -> Tensor:
    """Apply the Gaussian of OpenCV's 5x5 kernel; the result loses 2 pixels at every side.

    OpenCV's kernel of this size is 1 4 6 4 1 / 16 along each axis. It equals four successive means
    of two neighbours, all of which are exact in float32.
    """
    for _ in range(4):
        values = F.avg_pool2d(values, 2, stride=1)
    return torch.floor(values + 0.5)


def _sharpened(values: Tensor) -> Tensor:
    """Subtract the four neighbours from five times the pixel; loses 1 pixel at every side."""
    above, below = values[:, :, :-2, 1:-1], values[:, :, 2:, 1:-1]
    left, right = values[:, :, 1:-1, :-2], values[:, :, 1:-1, 2:]
    centre = values[:, :, 1:-1, 1:-1]
    return torch.clamp(5 * centre - (above + below + left + right), 0, 255)


def _median(values: Tensor) -> Tensor:
    """Compute the exact median of 3 x 3 pixels.

    Every column of three is sorted. For three adjacent columns, the median of the nine pixels is
    the median of the highest low, the middle middle and the lowest high.
    """
    values = F.pad(values, (1, 1, 1, 1), mode="replicate")
    above, centre, below = values[:, :, :-2], values[:, :, 1:-1], values[:, :, 2:]
    lower, higher = torch.minimum(above, centre), torch.maximum(above, centre)
    low, high = torch.minimum(lower, below), torch.maximum(higher, below)
    middle = torch.maximum(lower, torch.minimum(higher, below))
    highest_low = F.max_pool2d(low, (1, 3), stride=1)
    lowest_high = -F.max_pool2d(-high, (1, 3), stride=1)
    middle_middle = _middle(middle[..., :-2], middle[..., 1:-1], middle[..., 2:])
    return _middle(highest_low, middle_middle, lowest_high)


def _middle(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Compute the median of three values."""
    return torch.maximum(torch.minimum(a, b), torch.minimum(torch.maximum(a, b), c))
