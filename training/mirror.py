"""What lies beyond a frame's edge: its mirror image."""

from __future__ import annotations

import torch
from torch import Tensor


def mirrored(positions: Tensor, length: Tensor) -> Tensor:
    """The pixel, of a side of ``length`` >= 1 pixels, that each of ``positions`` stands for.

    Beyond the side's ends it is that of the mirror image. The last pixel is not repeated
    (``c b | a b c | b a``, OpenCV's reflect-101), and the mirrors go on for ever; one pixel is
    repeated. Integers of any shape; ``length`` is a tensor, so that a traced graph takes any size.
    """
    period = torch.clamp(2 * (length - 1), min=1)
    within = torch.remainder(positions, period)
    return torch.minimum(within, period - within)
