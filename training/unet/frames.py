"""Images and masks for training the U-Nets: prepared once, held in memory, windows drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from rich.progress import track
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as transforms

from training.datasets.annotated import AnnotatedDataset, AnnotatedFrame
from training.preprocessing.normalise import PrepareWholeFrame
from training.run.lightning import Draw
from training.unet.dice import resize_bilinear, resize_image, resize_truth
from training.unet.losses import balancing_weights, border_weights
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


Planes = tuple[Tensor, Tensor, Tensor]
"""Training planes: image uint8 ``[3, H, W]``, mask float32 ``[1, H, W]`` of 0 and 1, weights
float32 ``[1, H, W]``; weights may be ``[1, 1, 1]`` if all are 1."""


@dataclass(frozen=True)
class MaskedImage:
    """One image as the network sees it, with its foreground mask."""

    name: str
    pixels: Tensor
    """Pixels uint8 ``[1 or 3, H, W]``; one channel stands for three equal ones."""
    mask: Tensor
    """Foreground mask bool ``[1, H, W]``."""
    weights: Tensor
    """Weights float16 ``[1, H, W]`` of the cross-entropy; ``[1, 1, 1]`` if all are 1."""

    @property
    def size(self) -> tuple[int, int]:
        """Size of the image, (H, W)."""
        height, width = self.mask.shape[1:]
        return height, width

    def window(self, y: int, x: int, height: int, width: int) -> MaskedImage:
        """Cut out the part whose upper left pixel is ``(x, y)``."""
        part = (slice(None), slice(y, y + height), slice(x, x + width))
        weights = self.weights[part] if self.weights.numel() > 1 else self.weights
        return replace(self, pixels=self.pixels[part], mask=self.mask[part], weights=weights)

    def resized(self, size: tuple[int, int] | None) -> MaskedImage:
        """Resize the image to (H, W), by the rules of `training.unet.dice`.

        However, a mask that grows keeps its share of the image. Counting all values above 0, as the
        study's metric does, would thicken every object by up to half a pixel of the smaller image.
        """
        if size is None or size == self.size:
            return self
        grows = size[0] * size[1] > self.mask.numel()
        mask = (
            resize_bilinear(self.mask[None], size)[0] >= 0.5
            if grows
            else torch.from_numpy(resize_truth(self.mask[0].numpy(), size))[None]
        )
        return replace(
            self,
            pixels=resize_image(self.pixels[None], size)[0],
            mask=mask,
            weights=(
                resize_bilinear(self.weights[None], size)[0].half()
                if self.weights.numel() > 1
                else self.weights
            ),
        )

    def planes(self) -> Planes:
        """Return image, mask and weights for a training step."""
        return self.pixels.expand(3, -1, -1), self.mask.float(), self.weights.float()


MakeBlank = Callable[[np.random.Generator], MaskedImage]
"""Function that makes an empty frame as the network sees it, see `training.unet.blanks`."""


def foreground_mask(frame: AnnotatedFrame) -> npt.NDArray[np.bool_]:
    """Combine all cells of a frame in one mask ``[H, W]``; it is empty if there are no cells."""
    mask = np.zeros((frame.height, frame.width), bool)
    for cell in frame.cells:
        height, width = cell.mask.shape
        mask[cell.y : cell.y + height, cell.x : cell.x + width] |= cell.mask
    return mask


def prepare_frames(dataset: AnnotatedDataset) -> tuple[MaskedImage, ...]:
    """Prepare every frame of study S2: normalise it and raise its contrast, at native size.

    Raises:
        ValueError: a frame with cells has a single value everywhere, so nothing can be seen in it.
    """
    frames = track(dataset.frames, "preparing frames", transient=True)
    return tuple(_prepare_frame(frame) for frame in frames)


def _prepare_frame(frame: AnnotatedFrame) -> MaskedImage:
    image = frame.read()
    if frame.cells and image.min() == image.max():
        raise ValueError(
            f"{frame.path}: all pixels are {image.min()}, yet {len(frame.cells)} cells are "
            "annotated in it; a black or saturated frame teaches nothing. Leave it out."
        )
    image = image[:, :, None] if image.ndim == 2 else image
    prepared = PrepareWholeFrame()(torch.from_numpy(image.astype(np.int32)))[0]
    return _masked_image(frame.name, prepared[: image.shape[2]].clone(), foreground_mask(frame))


def read_tiles(folder: Path, files: Sequence[tuple[str, str]]) -> tuple[MaskedImage, ...]:
    """Read tiles of study S3: 8-bit files ``(image, mask)`` below ``folder``, already cleaned.

    Raises:
        ValueError: a file is missing or damaged, or an image and its mask differ in size.
    """
    return tuple(
        _read_tile(folder, image, mask)
        for image, mask in track(files, "reading tiles", transient=True)
    )


def _read_tile(folder: Path, image_file: str, mask_file: str) -> MaskedImage:
    image = cv2.imread(str(folder / image_file), cv2.IMREAD_COLOR)
    mask = cv2.imread(str(folder / mask_file), cv2.IMREAD_GRAYSCALE)
    for file, read in ((image_file, image), (mask_file, mask)):
        if read is None:
            raise ValueError(f"{folder / file} cannot be read; make the tiles again.")
    if image.shape[:2] != mask.shape:
        raise ValueError(
            f"{folder / image_file} and its mask {mask_file} must have one size; they have "
            f"{image.shape[:2]} and {mask.shape}. Make the tiles again."
        )
    pixels = torch.from_numpy(image[:, :, ::-1].copy()).permute(2, 0, 1).contiguous()
    return _masked_image(image_file, pixels, mask > 0)


def _masked_image(name: str, pixels: Tensor, mask: npt.NDArray[np.bool_]) -> MaskedImage:
    ones = torch.ones((1, 1, 1), dtype=torch.float16)
    return MaskedImage(name, pixels, torch.from_numpy(mask)[None], ones)


def foreground_share(images: Sequence[MaskedImage]) -> float:
    """Compute the share of foreground among all pixels."""
    return sum(int(i.mask.sum()) for i in images) / sum(i.mask.numel() for i in images)


def weigh_borders(
    images: Sequence[MaskedImage], share: float, settings: UnetSettings
) -> tuple[MaskedImage, ...]:
    """Add the border weight map, once per image; the mask's connected components are the objects.

    Args:
        images: images of any size.
        share: share of foreground among all training pixels, used to balance the classes.
        settings: settings of the map.
    """
    classes = balancing_weights(share, settings.class_balance)
    w0, sigma = settings.border_weight, settings.border_sigma
    weighed = []
    for image in track(images, "weighing borders", transient=True):
        _, labels = cv2.connectedComponents(image.mask[0].numpy().astype(np.uint8))
        weights = border_weights(np.asarray(labels, np.int32), classes, w0=w0, sigma=sigma)
        weighed.append(replace(image, weights=torch.from_numpy(weights).half()[None]))
    return tuple(weighed)


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


class TrainingWindows(Dataset[Planes]):
    """Images that windows are drawn from by :class:`EpochBatches`.

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


def _uniform(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator))
