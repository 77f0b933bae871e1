"""Empty frames for the U-Nets, as the network sees them.

Training draws new ones every time; validation uses the same ones in every epoch.
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
from training.preprocessing.normalise import PrepareWholeFrame
from training.unet.frames import MaskedImage
from training.unet.settings import UnetSettings

FEW_IMAGES = 6
"""Number of validation images up to which there are as many empty frames; six, for the six
kinds."""

MIN_SCALE = 0.25
"""Smallest sides of an empty frame that is resized, as a share of the sides of the images."""

BlankPixels = Callable[[np.random.Generator, int, int, int], Tensor]
"""Function ``(random, height, width, channels)`` that makes an empty frame uint8 ``[C, H, W]``."""


def blank_whole_frame(
    random: np.random.Generator, height: int, width: int, channels: int
) -> Tensor:
    """Make an empty frame of study S2, prepared like its frames."""
    camera = blank_frame(random, height, width, channels)
    prepared: Tensor = PrepareWholeFrame()(torch.from_numpy(camera.astype(np.int32)))
    return prepared[0, :channels].clone()


def blank_tile(random: np.random.Generator, height: int, width: int, channels: int) -> Tensor:
    """Make an empty tile of study S3, cleaned like its frames; always RGB."""
    cleaned = clean_image(blank_slide(random, height, width))
    return torch.from_numpy(cleaned).permute(2, 0, 1).contiguous()


@dataclass(frozen=True)
class BlankImages:
    """Makes empty frames that match given training images."""

    pixels: BlankPixels
    shapes: tuple[tuple[int, int, int], ...]
    """Shapes (channels, H, W) of the images; one is drawn for each empty frame."""
    least_scale: float = 1.0
    """Smallest sides of an empty frame, as a share of the image's sides; the largest share is 1."""
    background_weight: float | None = None
    """Weight of a pixel if images have a weight map; None if they have none."""

    def __call__(self, random: np.random.Generator) -> MaskedImage:
        """Make one empty frame."""
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
    """Choose how empty frames are made for images of native size.

    If images are resized, frames of any size are served, and the noise of a small one is smoothed
    less. So empty frames have sides between a quarter and the whole of those of the images.
    Otherwise they are as large as the images.
    """
    shapes = tuple((len(image.pixels), *image.size) for image in images)
    resized = settings.mode == "resize" and settings.size is not None
    return BlankImages(pixels, shapes, MIN_SCALE if resized else 1.0, background_weight)


def training_blanks(images: int, settings: UnetSettings) -> int:
    """Number of empty frames in an epoch of ``images``; at least one, unless the share is 0."""
    return math.ceil(settings.blank_share * images * settings.samples_per_frame)


def validation_blanks(
    blank: BlankImages, images: int, settings: UnetSettings, seed: int
) -> tuple[MaskedImage, ...]:
    """Make the empty frames for a validation on ``images``; none if the share is 0.

    There are never more of them than images, so that the best threshold suits both.
    """
    if not settings.blank_share:
        return ()
    count = max(min(images, FEW_IMAGES), math.ceil(settings.blank_share * images))
    return tuple(blank(np.random.default_rng((seed, number))) for number in range(count))
