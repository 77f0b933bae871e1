"""Empty frames for the U-Nets, as their network sees them.

A training draws each of them anew; a validation sees the same ones in every epoch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.datasets.blank_frames import blank_frame, blank_slide
from training.preprocessing.clean import clean_image
from training.preprocessing.contrast import PrepareWholeFrame
from training.unet.frames import MaskedImage
from training.unet.settings import UnetSettings

FEW_IMAGES = 6
"""Up to this many images to validate on, there are as many empty frames; six, for the six kinds."""

LEAST_SCALE = 0.25
"""Smallest sides of an empty frame that is resized, as a part of the sides of the images."""

BlankPixels = Callable[[np.random.Generator, int, int, int], Tensor]
"""``make(random, height, width, channels)``: pixels uint8 ``[C, H, W]`` of an empty frame."""


def blank_whole_frame(
    random: np.random.Generator, height: int, width: int, channels: int
) -> Tensor:
    """An empty frame of study S2, prepared as its frames are."""
    camera = blank_frame(random, height, width, channels)
    prepared: Tensor = PrepareWholeFrame()(torch.from_numpy(camera.astype(np.int32)))
    return prepared[0, :channels].clone()


def blank_tile(random: np.random.Generator, height: int, width: int, channels: int) -> Tensor:
    """An empty tile of study S3, cleaned as its frames are; always RGB."""
    cleaned = clean_image(blank_slide(random, height, width))
    return torch.from_numpy(cleaned).permute(2, 0, 1).contiguous()


@dataclass(frozen=True)
class BlankImages:
    """Makes empty frames for a training on given images."""

    pixels: BlankPixels
    shapes: tuple[tuple[int, int, int], ...]
    """(channels, H, W) of the images, one of which is drawn for each empty frame."""
    least_scale: float = 1.0
    """The sides of an empty frame are this much of the image's sides at least, and 1 at most."""
    background_weight: float | None = None
    """Weight of a pixel where images have a map of weights; None where they have none."""

    def __call__(self, random: np.random.Generator) -> MaskedImage:
        """Make one."""
        channels, *size = self.shapes[int(random.integers(len(self.shapes)))]
        scale = self.least_scale ** random.uniform(0, 1)
        height, width = (max(1, round(side * scale)) for side in size)
        weights = torch.ones((1, 1, 1), dtype=torch.float16)
        if self.background_weight is not None:
            weights = weights.expand(1, height, width) * self.background_weight
        pixels = self.pixels(random, height, width, channels)
        mask = torch.zeros((1, height, width), dtype=torch.bool)
        return MaskedImage("an empty frame", pixels, mask, weights)


def blanks_like(
    images: Sequence[MaskedImage],
    settings: UnetSettings,
    pixels: BlankPixels,
    background_weight: float | None,
) -> BlankImages:
    """Make empty frames for images of native size.

    Where they are resized, frames of any size are served, and the noise of a small one is smoothed
    less: empty frames have sides of a quarter to the whole of the images. Otherwise they are as
    large as the images.
    """
    shapes = tuple((len(image.pixels), *image.size) for image in images)
    resized = settings.mode == "resize" and settings.size is not None
    return BlankImages(pixels, shapes, LEAST_SCALE if resized else 1.0, background_weight)


def training_blanks(images: int, settings: UnetSettings) -> int:
    """Draws of empty frames in an epoch of so many images; one at least, unless the share is 0."""
    return math.ceil(settings.blank_share * images * settings.samples_per_frame)


def validation_blanks(
    blank: BlankImages, images: int, settings: UnetSettings, seed: int
) -> tuple[MaskedImage, ...]:
    """The empty frames to validate on beside so many images; none where the share is 0.

    They are never more than the images, so that the best threshold is that of both.
    """
    if not settings.blank_share:
        return ()
    count = max(min(images, FEW_IMAGES), math.ceil(settings.blank_share * images))
    return tuple(blank(np.random.default_rng((seed, number))) for number in range(count))
