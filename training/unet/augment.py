"""Random augmentation of a training image and its mask, newly drawn every time it is seen."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms


def turn(
    planes: Sequence[Tensor],
    generator: torch.Generator,
    *,
    flip_probability: float,
    quarter: bool | None,
) -> tuple[Tensor, ...]:
    """Flip and rotate all planes ``[C, H, W]`` of one image in the same way.

    Args:
        planes: image, mask and anything else on the same pixels.
        generator: source of the random numbers.
        flip_probability: probability of a flip, for each axis.
        quarter: rotate by a multiple of 90 degrees: an odd one if True, which exchanges height and
            width, an even one if False; None never rotates.
    """
    mirror = [bool(torch.rand((), generator=generator) < flip_probability) for _ in range(2)]
    axes = [axis for axis, drawn in zip((1, 2), mirror, strict=True) if drawn]
    half = 2 * int(torch.randint(2, (), generator=generator))
    turns = 0 if quarter is None else half + int(quarter)
    return tuple(torch.rot90(plane.flip(axes), turns, (1, 2)) for plane in planes)


def change_appearance(
    image: Tensor, generator: torch.Generator, *, sharpness: float, contrast: float
) -> Tensor:
    """Sharpen or blur, and raise or lower the contrast of uint8 ``[3, H, W]``.

    Args:
        image: one training image.
        generator: source of the random numbers.
        sharpness: the factor of torchvision's `adjust_sharpness` is drawn from 1 - this to 1 +
            this.
        contrast: the same for `adjust_contrast`.
    """
    sharper, stronger = 2 * torch.rand(2, generator=generator) - 1
    if sharpness:
        image = transforms.adjust_sharpness(image, 1 + sharpness * float(sharper))
    if contrast:
        image = transforms.adjust_contrast(image, 1 + contrast * float(stronger))
    return image
