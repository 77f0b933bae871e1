"""Reflection padding: beyond a frame's edge lies its mirror image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


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
