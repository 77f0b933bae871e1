"""Samples for training and validating the U-Nets: windows of the images, and empty frames.

Training draws new windows and new empty frames every time. Validation uses the same in every epoch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as transforms

from training.datasets.blank_frames import blank_frame, blank_slide
from training.preprocessing.clean import clean_image
from training.preprocessing.normalise import PrepareWholeFrame
from training.run.lightning import Draw
from training.unet.frames import MaskedImage, Planes
from training.unet.settings import UnetSettings


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


def fit_to_training(
    images: Sequence[MaskedImage], settings: UnetSettings
) -> tuple[MaskedImage, ...]:
    """Prepare images for drawing windows: whole images are resized here, once.

    Raises:
        ValueError: an image is smaller than the windows to be cut from it, or images of different
            sizes would be in one batch.
    """
    if settings.mode == "crop" and settings.size is not None:
        height, width = settings.size
        for image in images:
            if image.size[0] < height or image.size[1] < width:
                raise ValueError(
                    f"mode crop cuts windows of {width}x{height} pixels, but {image.name} has "
                    f"{image.size[1]}x{image.size[0]}. Choose a smaller resolution, or mode resize."
                )
        return tuple(images)
    if settings.window_scale is not None:
        return tuple(images)
    fitted = tuple(image.resized(settings.size) for image in images)
    sizes = {image.size for image in fitted}
    if len(sizes) > 1 and settings.batch > 1:
        shown = ", ".join(f"{width}x{height}" for height, width in sorted(sizes))
        raise ValueError(
            f"images of one batch have one size; these have {shown}. Give a resolution to resize "
            "them to, mode crop, or batch 1."
        )
    return fitted


def covering_windows(image: MaskedImage, settings: UnetSettings) -> tuple[MaskedImage, ...]:
    """Cover an image by evenly spaced windows of the training's size and scale.

    They are used in validation: the whole image, always the same windows, at the training scale.
    """
    size = settings.size
    if settings.window_scale is not None:
        height, width = (max(1, round(s * settings.window_scale)) for s in image.size)
    elif settings.mode == "crop" and size is not None:
        height, width = size
    else:
        return (image,)
    return tuple(
        image.window(y, x, height, width).resized(size)
        for y in _starts(image.size[0], height)
        for x in _starts(image.size[1], width)
    )


def _starts(length: int, window: int) -> list[int]:
    return [round(s) for s in np.linspace(0, length - window, -(-length // window))]


MakeBlank = Callable[[np.random.Generator], MaskedImage]
"""Function that makes an empty frame as the network sees it, see :class:`BlankImages`."""


class TrainingWindows(Dataset[Planes]):
    """Images that windows are drawn from by `training.run.lightning.EpochBatches`.

    ``blank`` makes a new empty frame for each draw beyond the last image.
    """

    def __init__(
        self,
        images: Sequence[MaskedImage],
        settings: UnetSettings,
        blank: MakeBlank | None = None,
    ) -> None:
        self.images = fit_to_training(images, settings)
        self.settings = settings
        self.blank = blank

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: Draw) -> Planes:
        """Return one augmented window."""
        settings = self.settings
        generator = torch.Generator().manual_seed(draw.seed)
        if self.blank is not None and draw.index == len(self.images):
            image = self.blank(np.random.default_rng(draw.seed))
        else:
            image = self.images[draw.index]
        pixels, mask, weights = self._window(image, generator).planes()
        quarter = draw.quarter if settings.rotate_90 else None
        turned = turn(
            (pixels, mask, weights),
            generator,
            flip_probability=settings.flip_probability,
            quarter=quarter,
        )
        pixels = change_appearance(
            turned[0], generator, sharpness=settings.sharpness, contrast=settings.contrast
        )
        return pixels, turned[1], turned[2]

    def _window(self, image: MaskedImage, generator: torch.Generator) -> MaskedImage:
        settings = self.settings
        height, width = image.size
        if settings.window_scale is not None:
            spread = settings.window_scale_spread * (2 * _uniform(generator) - 1)
            scale = min(max(settings.window_scale + spread, 0.01), 1.0)
            height, width = max(1, round(height * scale)), max(1, round(width * scale))
        elif settings.mode == "crop" and settings.size is not None:
            height, width = settings.size
        y = int(_uniform(generator) * (image.size[0] - height + 1))
        x = int(_uniform(generator) * (image.size[1] - width + 1))
        return image.window(y, x, height, width).resized(settings.size)


def _uniform(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator))


class ValidationImages(Dataset[Planes]):
    """Images, or the windows that cover them, in a fixed order, followed by the empty frames."""

    def __init__(
        self,
        images: Sequence[MaskedImage],
        settings: UnetSettings,
        blanks: Sequence[MaskedImage] = (),
    ) -> None:
        shown, empty = (
            [w for i in fit_to_training(part, settings) for w in covering_windows(i, settings)]
            for part in (images, blanks)
        )
        self.images = shown + empty
        self.frames = len(shown)
        """Number of items that are not empty frames."""

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Planes:
        """Return the planes of one image."""
        return self.images[index].planes()

    def batches(self, batch: int) -> tuple[list[list[int]], list[list[int]]]:
        """Indices of all batches, of the images and of the empty frames; no batch has both."""
        frames, blanks = (
            [list(range(start, min(start + batch, end))) for start in range(first, end, batch)]
            for first, end in ((0, self.frames), (self.frames, len(self.images)))
        )
        return frames, blanks


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
