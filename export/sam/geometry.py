"""Geometry of SAM's input square and masks on a frame, in tensors that a graph can compute."""

from __future__ import annotations

import torch
from torch import Tensor


def content_size(frame_size: Tensor, side: int) -> Tensor:
    """Rows and columns of SAM's input square that the frame fills: int64 ``[2]``.

    They are rounded as in `ResizeLongestSide.get_preprocess_shape`, but are never 0.

    Args:
        frame_size: H and W of the frame, ``[2]`` of any integer dtype.
        side: side S of SAM's input square.
    """
    size = frame_size.double()
    scale = side / size.amax()
    return torch.clamp(torch.floor(size * scale + 0.5), min=1.0).long()


def mask_sampling(positions: Tensor, content: Tensor, side: int, mask_side: int) -> Tensor:
    """Weights of SAM's low-resolution mask at places of the frame, along one axis.

    The result is that of `Sam.postprocess_masks`: the mask is brought to the input square
    bilinearly, the square is cropped to the content, and the content is read bilinearly with
    clamped edges. Both steps are linear, so one matrix does both.

    Args:
        positions: float32 of any shape, in rows (or columns) of the content: 0 is the centre of the
            first.
        content: number of rows (or columns) of the content, see :func:`content_size`.
        side: side S of SAM's input square.
        mask_side: side of the low-resolution mask.

    Returns:
        float32 ``[*positions.shape, mask_side]``.
    """
    last = content.to(positions.dtype) - 1
    clamped = torch.minimum(torch.clamp(positions, min=0.0), last)
    return _hats(clamped, side) @ _upsampling(side, mask_side)


def sides_left_open(values: Tensor, one: Tensor, first: int) -> Tensor:
    """``values`` with sides that a graph's shape inference cannot know, from dim ``first`` on.

    The contract leaves open what differs between the sizes of SAM, and Triton refuses a graph that
    fixes what its configuration leaves open.

    Args:
        values: tensor of any shape.
        one: int64 scalar that is 1 in every run, but computed from the sides of an input.
        first: first dim whose side is left open.
    """
    shape = torch._shape_as_tensor(values)
    whole = [slice(None)] * first
    sides = [slice(0, shape[dim] * one) for dim in range(first, values.dim())]
    return values[(*whole, *sides)]


def _upsampling(side: int, mask_side: int) -> Tensor:
    """Bilinear weights ``[S, mask_side]`` of every row of the input square."""
    centres = (torch.arange(side) + 0.5) * (mask_side / side) - 0.5
    return _hats(torch.clamp(centres, 0, mask_side - 1), mask_side)


def _hats(places: Tensor, count: int) -> Tensor:
    """Bilinear weights of ``count`` samples at ``places`` between 0 and ``count - 1``."""
    return torch.clamp(1 - torch.abs(places.unsqueeze(-1) - torch.arange(count)), min=0.0)
