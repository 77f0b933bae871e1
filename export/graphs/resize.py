"""Bilinear resizing as a graph: from any size to any size, without aliasing."""

from __future__ import annotations

import torch
from torch import Tensor


def resize(images: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """Resize images float32 ``[..., H, W]`` to ``[..., height, width]``.

    The result equals that of torch's `interpolate(mode="bilinear", antialias=True)` and of Pillow:
    where a side is reduced, the triangle that weighs source pixels widens with the scale. Two
    matrix products do this, because ONNX's Resize in the opset in use cannot widen the triangle.
    """
    shape = torch._shape_as_tensor(images)
    rows = bilinear_weights(shape[-2], height)
    columns = bilinear_weights(shape[-1], width)
    return torch.matmul(torch.matmul(rows, images), columns.transpose(0, 1))


def bilinear_weights(source: Tensor, target: Tensor) -> Tensor:
    """Share of every source pixel in every target pixel: float32 ``[target, source]``."""
    scale = source.double() / target.double()
    centres = _centres(target) * scale
    distances = _centres(source) - centres[:, None]
    weights = torch.clamp(1 - distances.abs() / torch.clamp(scale, min=1.0), min=0.0)
    return (weights / weights.sum(dim=1, keepdim=True)).float()


def _centres(length: Tensor) -> Tensor:
    indices: Tensor = torch.arange(length)  # type: ignore[call-overload]  # not a number
    return indices.double() + 0.5
