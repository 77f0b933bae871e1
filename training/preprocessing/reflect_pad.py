"""What lies beyond a frame's edge: its mirror image."""

from __future__ import annotations

from typing import Any

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


def reflect_pad(values: Tensor, dim: int, before: int, after: Any) -> Tensor:
    """``values`` with ``before`` and ``after`` more pixels at the ends of ``dim``, mirrored.

    ``after`` may be a tensor, where it depends on the frame's size. What is inside the frame is
    copied as a whole, which is faster than gathering its pixels.
    """
    length = torch._shape_as_tensor(values)[dim]
    first = mirrored(torch.arange(before) - before, length)
    last = mirrored(torch.arange(after) + length, length)
    return torch.cat([values.index_select(dim, first), values, values.index_select(dim, last)], dim)
