"""Images and masks for training the U-Nets, with border weights; prepared once, held in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from rich.progress import track
from scipy.ndimage import distance_transform_edt, find_objects
from torch import Tensor

from training.datasets.annotated import AnnotatedDataset, AnnotatedFrame
from training.preprocessing.normalise import PrepareWholeFrame
from training.unet.dice import resize_bilinear, resize_image, resize_truth
from training.unet.settings import BORDER_SIGMA, BORDER_WEIGHT, UnetSettings

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


_REACH = 5.0
"""Number of sigma beyond which distances count as infinite: w0 * exp(-12.5) is below 1e-4."""


def balancing_weights(foreground_share: float, balance: float = 1.0) -> tuple[float, float]:
    """Compute the class weights w_c of background and foreground.

    In full balance both classes have the same total weight, and the mean weight is 1. A network
    trained in this way calls a pixel foreground if that is more likely than in the mean of all
    pixels. It finds rare objects, but makes them too large. Without balance every pixel weighs 1.

    Args:
        foreground_share: share of foreground among the training pixels.
        balance: power that the weights are raised to: 1 balances fully, 0 not at all.

    Raises:
        ValueError: one of the classes has no pixel.
    """
    if not 0 < foreground_share < 1:
        raise ValueError(
            "weights that balance the classes need pixels of both; the share of foreground is "
            f"{foreground_share:g}. Train on images that hold both."
        )
    return (0.5 / (1 - foreground_share)) ** balance, (0.5 / foreground_share) ** balance


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


def border_weights(
    labels: npt.NDArray[np.integer[Any]],
    class_weights: tuple[float, float],
    *,
    w0: float = BORDER_WEIGHT,
    sigma: float = BORDER_SIGMA,
) -> npt.NDArray[np.float32]:
    """Compute the weights w = w_c + w0 * exp(-(d1 + d2)^2 / (2 sigma^2)), float32 ``[H, W]``.

    This is equation 2 of Ronneberger et al. 2015, quoted by study S3. d1 and d2 are the distances,
    in pixels, to the nearest and the second nearest object. The second term is added to background
    pixels only. It makes the network learn those between objects that nearly touch.

    Args:
        labels: label image ``[H, W]``; 0 is background.
        class_weights: w_c of background and foreground, see :func:`balancing_weights`.
        w0: height of the border term.
        sigma: range of the border term in pixels.
    """
    background = labels == 0
    nearest = np.full(labels.shape, np.inf)
    second = np.full(labels.shape, np.inf)
    margin = int(np.ceil(_REACH * sigma))
    for number, place in enumerate(find_objects(labels), start=1):
        if place is None:  # no pixel has this number
            continue
        near = tuple(slice(max(s.start - margin, 0), s.stop + margin) for s in place)
        distance = distance_transform_edt(labels[near] != number)
        second[near] = np.minimum(second[near], np.maximum(nearest[near], distance))
        nearest[near] = np.minimum(nearest[near], distance)
    border = w0 * np.exp(-((nearest + second) ** 2) / (2 * sigma**2))
    weights: npt.NDArray[np.float32] = np.where(
        background, class_weights[0] + border, class_weights[1]
    ).astype(np.float32)
    return weights
