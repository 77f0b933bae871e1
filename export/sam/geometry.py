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


def mask_boxes(
    logits: Tensor, frame_size: Tensor, content: Tensor, side: int
) -> tuple[Tensor, Tensor]:
    """Boxes around the pixels of the frame whose logit is above 0.

    A mask is sampled on a grid that is no finer than SAM's input square, so memory does not grow
    with the frame. On frames up to that size, the grid is the frame's and the box is tight. On
    larger frames, an edge lies where the line through the samples on both sides of it crosses 0:
    never inside the mask, and less than a pixel of the square outside.

    Args:
        logits: low-resolution masks float32 ``[N, M, M]``.
        frame_size: H and W of the frame, int64 ``[2]``.
        content: H and W of the square's part that the frame fills, int64 ``[2]``, see
            `export.sam.geometry.content_size`.
        side: side S of SAM's input square.

    Returns:
        Boxes float32 ``[N, 4]`` (x0, y0, x1, y1) in whole pixels of the frame, and bool ``[N]``,
        whether the mask has any pixel. The box of a mask without pixels means nothing.
    """
    samples = torch.minimum(frame_size, content)
    weights = []
    for axis in (0, 1):
        indices: Tensor = torch.arange(samples[axis])  # type: ignore[call-overload]  # no number
        places = (indices.double() + 0.5) * (content[axis].double() / samples[axis].double()) - 0.5
        weights.append(mask_sampling(places.float(), content[axis], side, logits.shape[-1]))
    grid = weights[0] @ logits @ weights[1].transpose(0, 1)  # N, rows, columns
    top, bottom = _extent(grid.amax(dim=2), frame_size[0], samples[0])
    left, right = _extent(grid.amax(dim=1), frame_size[1], samples[1])
    return torch.stack([left, top, right, bottom], dim=1), grid.flatten(1).amax(dim=1) > 0


def _extent(profile: Tensor, length: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """First and one beyond the last pixel of the frame where ``profile`` ``[N, count]`` is above 0.

    ``profile`` holds the highest logit of every row (or column) of the grid.
    """
    indices: Tensor = torch.arange(count)  # type: ignore[call-overload]  # not a number
    inside, last = profile > 0, count - 1
    first = torch.where(inside, indices, last).amin(dim=1)
    final = torch.where(inside, indices, 0).amax(dim=1)
    scale, length = count.double() / length.double(), length.double()
    # In pixels of the frame: where the line crosses 0, and the nearest sample that is inside.
    crossing = _pixel(first - _share(profile, first, torch.clamp(first - 1, min=0)), scale)
    start = torch.minimum(torch.floor(crossing) + 1, torch.ceil(_pixel(first.double(), scale)))
    crossing = _pixel(final + _share(profile, final, torch.minimum(final + 1, last)), scale)
    stop = torch.maximum(torch.ceil(crossing), torch.floor(_pixel(final.double(), scale)) + 1)
    start = torch.where(first == 0, torch.zeros_like(start), torch.clamp(start, min=0.0))
    stop = torch.where(final == last, length, torch.minimum(stop, length))
    return start.float(), stop.float()


def _share(profile: Tensor, inside: Tensor, outside: Tensor) -> Tensor:
    """Distance from the sample ``inside`` to where the logit is 0, towards ``outside``."""
    high = profile.gather(1, inside[:, None])[:, 0].double()
    low = profile.gather(1, outside[:, None])[:, 0].double()
    return high / torch.clamp(high - low, min=1e-12)


def _pixel(sample: Tensor, scale: Tensor) -> Tensor:
    """Frame pixel of a place on the grid; 0 is the centre of the first pixel."""
    return (sample + 0.5) / scale - 0.5
