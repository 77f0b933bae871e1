"""Frames and their cells as a Mask R-CNN trains on them: normalised once, windows drawn, turned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from rich.progress import track
from torch import Tensor
from torch.utils.data import Dataset

from training.annotated import AnnotatedCell, AnnotatedDataset, AnnotatedFrame
from training.maskrcnn_network import NetworkSettings
from training.maskrcnn_settings import MaskrcnnSettings
from training.normalise import PercentileLevels, as_rgb, to_8_bit
from training.unet_frames import Draw

Target = dict[str, Tensor]
"""What torchvision's detection networks train on: ``boxes`` float32 ``[N, 4]``, x0, y0, x1, y1 in
pixels of the image, ``labels`` int64 ``[N]``, 0 being background, ``masks`` uint8 ``[N, H, W]``."""
Example = tuple[Tensor, Target]
"""Image float32 ``[3, H, W]``, RGB from 0 to 1, and its target."""
Batch = tuple[list[Tensor], list[Target]]


@dataclass(frozen=True)
class InstanceImage:
    """One image as the network sees it, with its cells."""

    name: str
    pixels: Tensor
    """uint8 ``[3, H, W]``, RGB."""
    cells: tuple[AnnotatedCell, ...]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        _, height, width = self.pixels.shape
        return height, width

    def window(
        self, y: int, x: int, height: int, width: int, *, min_visible: float
    ) -> InstanceImage:
        """The part whose upper left pixel is ``(x, y)``, with the cells that it shows enough of."""
        pixels = self.pixels[:, y : y + height, x : x + width]
        size = pixels.shape[1], pixels.shape[2]
        inside = (_visible_part(cell, (y, x), size, min_visible) for cell in self.cells)
        return replace(self, pixels=pixels, cells=tuple(cell for cell in inside if cell))

    def mirrored(self) -> InstanceImage:
        """Left and right exchanged."""
        width = self.size[1]
        cells = (
            replace(c, x=width - c.x - c.mask.shape[1], mask=c.mask[:, ::-1]) for c in self.cells
        )
        return replace(self, pixels=self.pixels.flip(2), cells=tuple(cells))

    def rotated(self, turns: int) -> InstanceImage:
        """Rotated counter-clockwise by ``turns`` times 90 degrees."""
        image = self
        for _ in range(turns % 4):
            width = image.size[1]
            cells = (
                replace(c, x=c.y, y=width - c.x - c.mask.shape[1], mask=np.rot90(c.mask))
                for c in image.cells
            )
            pixels = torch.rot90(image.pixels, 1, (1, 2))
            image = replace(image, pixels=pixels, cells=tuple(cells))
        return image

    def example(self) -> Example:
        """What a step takes."""
        masks = np.zeros((len(self.cells), *self.size), np.uint8)
        for plane, cell in zip(masks, self.cells, strict=True):
            height, width = cell.mask.shape
            plane[cell.y : cell.y + height, cell.x : cell.x + width] = cell.mask
        target = {
            "boxes": torch.tensor([cell.box for cell in self.cells]).reshape(-1, 4),
            "labels": torch.tensor([cell.class_id + 1 for cell in self.cells], dtype=torch.int64),
            "masks": torch.from_numpy(masks),
        }
        return self.pixels.float() / 255, target


def _visible_part(
    cell: AnnotatedCell, corner: tuple[int, int], size: tuple[int, int], min_visible: float
) -> AnnotatedCell | None:
    """A cell in the pixels of a window; None where too little of it is inside."""
    (top, left), (height, width) = corner, size
    y, x = max(cell.y - top, 0), max(cell.x - left, 0)
    rows = slice(max(top - cell.y, 0), max(top + height - cell.y, 0))
    columns = slice(max(left - cell.x, 0), max(left + width - cell.x, 0))
    mask = cell.mask[rows, columns]
    if np.count_nonzero(mask) < max(1.0, min_visible * cell.area):
        return None
    return AnnotatedCell.cut(mask, cell.class_id, x=x, y=y)


def prepare_instances(dataset: AnnotatedDataset) -> tuple[InstanceImage, ...]:
    """Every frame, normalised to 8-bit RGB at native size, whether it has cells or not.

    Raises:
        ValueError: a frame with cells holds one single value: nothing can be seen in it.
    """
    frames = track(dataset.frames, "preparing frames", transient=True)
    return tuple(_prepare(frame) for frame in frames)


def _prepare(frame: AnnotatedFrame) -> InstanceImage:
    image = frame.read()
    if frame.cells and image.min() == image.max():
        raise ValueError(
            f"{frame.path}: all pixels are {image.min()}, yet {len(frame.cells)} cells are "
            "annotated in it; a black or saturated frame teaches nothing. Leave it out."
        )
    values = torch.from_numpy((image[:, :, None] if image.ndim == 2 else image).astype(np.int32))
    normalised = to_8_bit(values.permute(2, 0, 1).float(), PercentileLevels()(values))
    return InstanceImage(frame.name, as_rgb(normalised, channel_dim=0), frame.cells)


def network_scale(size: tuple[int, int], settings: NetworkSettings) -> float:
    """What torchvision's transform multiplies the sides (H, W) of a frame by."""
    return min(settings.min_size / min(size), settings.max_size / max(size))


def _window_size(image: InstanceImage, settings: MaskrcnnSettings) -> tuple[int, int]:
    """(H, W) of a window in pixels of the frame, before it is scaled as the frame would be.

    Raises:
        ValueError: the frame is so long that a window is larger than its short side.
    """
    if settings.window is None:
        return image.size
    side = max(1, round(settings.window / network_scale(image.size, settings)))
    if side > min(image.size):
        raise ValueError(
            f"{image.name}, {image.size[1]}x{image.size[0]} pixels, is scaled to max_size "
            f"{settings.max_size} on its long side; windows of {settings.window} pixels are "
            "larger than its short side then. Raise max_size, or choose a smaller window."
        )
    return side, side


class TrainingInstances(Dataset[Example]):
    """Images that examples are drawn from by `training.unet_frames.EpochBatches`."""

    def __init__(self, images: Sequence[InstanceImage], settings: MaskrcnnSettings) -> None:
        self.images = images
        self.sizes = [_window_size(image, settings) for image in images]
        self.settings = settings

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: Draw) -> Example:
        """One window, or a whole frame, turned at random."""
        settings, image = self.settings, self.images[draw.index]
        height, width = self.sizes[draw.index]
        random = np.random.default_rng(draw.seed)
        y = int(random.integers(image.size[0] - height + 1))
        x = int(random.integers(image.size[1] - width + 1))
        part = image.window(y, x, height, width, min_visible=settings.min_visible)
        horizontal, vertical, rotation = random.random(3)
        turns = int(random.integers(1, 4))
        if horizontal < settings.horizontal_flip:
            part = part.mirrored()
        if vertical < settings.vertical_flip:
            part = part.mirrored().rotated(2)
        if rotation < settings.rotation:
            part = part.rotated(turns)
        return part.example()


class ValidationInstances(Dataset[Example]):
    """Images, or the windows that cover them, in order."""

    def __init__(self, images: Sequence[InstanceImage], settings: MaskrcnnSettings) -> None:
        self.images = [part for image in images for part in _covering(image, settings)]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Example:
        """One image."""
        return self.images[index].example()


def _covering(image: InstanceImage, settings: MaskrcnnSettings) -> list[InstanceImage]:
    height, width = _window_size(image, settings)
    return [
        image.window(y, x, height, width, min_visible=settings.min_visible)
        for y in _starts(image.size[0], height)
        for x in _starts(image.size[1], width)
    ]


def _starts(length: int, window: int) -> list[int]:
    return [round(s) for s in np.linspace(0, length - window, -(-length // window))]


def collate(examples: Sequence[Example]) -> Batch:
    """Images may differ in size, so a batch is lists."""
    return [image for image, _ in examples], [target for _, target in examples]
