"""Frames and cells for training a Mask R-CNN: prepared once; windows are drawn and turned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from rich.progress import track
from torch import Tensor
from torch.utils.data import Dataset

from training.datasets.annotated import AnnotatedCell, AnnotatedDataset, AnnotatedFrame
from training.datasets.blank_frames import blank_frame
from training.maskrcnn.settings import MaskrcnnSettings, NetworkSettings
from training.preprocessing.cutting import scaled_frame
from training.run.lightning import Draw

BACKGROUND_MARGIN = 4
"""Distance that a background window keeps from every annotated cell's box, in network pixels."""

BACKGROUND_TRIES = 64
"""Number of places that are tried for a background window of one size."""

Target = dict[str, Tensor]
"""Training target of torchvision's detection networks: ``boxes`` float32 ``[N, 4]``, x0, y0, x1, y1
in pixels of the image, ``labels`` int64 ``[N]``, where 0 is background, ``masks`` uint8 ``[N, H,
W]``."""
Example = tuple[Tensor, Target]
"""Image float32 ``[3, H, W]``, RGB from 0 to 1, and its target."""
Batch = tuple[list[Tensor], list[Target]]


@dataclass(frozen=True)
class InstanceImage:
    """One image as the network sees it, with its cells."""

    name: str
    pixels: Tensor
    """Pixels uint8 ``[3, H, W]``, RGB."""
    cells: tuple[AnnotatedCell, ...]

    @property
    def size(self) -> tuple[int, int]:
        """Size of the image, (H, W)."""
        _, height, width = self.pixels.shape
        return height, width

    def window(
        self, y: int, x: int, height: int, width: int, *, min_visible: float
    ) -> InstanceImage:
        """Cut out the part with upper left pixel ``(x, y)`` and the cells visible enough in it."""
        pixels = self.pixels[:, y : y + height, x : x + width]
        size = pixels.shape[1], pixels.shape[2]
        inside = (_visible_part(cell, (y, x), size, min_visible) for cell in self.cells)
        return replace(self, pixels=pixels, cells=tuple(cell for cell in inside if cell))

    def mirrored(self) -> InstanceImage:
        """Exchange left and right."""
        width = self.size[1]
        cells = (
            replace(c, x=width - c.x - c.mask.shape[1], mask=c.mask[:, ::-1]) for c in self.cells
        )
        return replace(self, pixels=self.pixels.flip(2), cells=tuple(cells))

    def rotated(self, turns: int) -> InstanceImage:
        """Rotate counter-clockwise by ``turns`` times 90 degrees."""
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
        """Return the image and its target for a training step."""
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
    """Clip a cell to a window, in pixels of the window. None if too little of it is inside."""
    (top, left), (height, width) = corner, size
    y, x = max(cell.y - top, 0), max(cell.x - left, 0)
    rows = slice(max(top - cell.y, 0), max(top + height - cell.y, 0))
    columns = slice(max(left - cell.x, 0), max(left + width - cell.x, 0))
    mask = cell.mask[rows, columns]
    if np.count_nonzero(mask) < max(1.0, min_visible * cell.area):
        return None
    return AnnotatedCell.cut(mask, cell.class_id, x=x, y=y)


def prepare_instances(dataset: AnnotatedDataset, network_scale: float) -> list[InstanceImage]:
    """Prepare every frame as the served tiles show it, whether it has cells or not.

    Args:
        dataset: frames with their common scale.
        network_scale: network pixels per pixel of the common scale.

    Raises:
        ValueError: a frame with cells has a single value everywhere, so nothing can be seen in it.
    """
    frames = track(dataset.frames, "preparing frames", transient=True)
    return [_prepare(frame, network_scale) for frame in frames]


def _prepare(frame: AnnotatedFrame, network_scale: float) -> InstanceImage:
    image = frame.read()
    if frame.cells and image.min() == image.max():
        raise ValueError(
            f"{frame.path}: all pixels are {image.min()}, yet {len(frame.cells)} cells are "
            "annotated in it; a black or saturated frame teaches nothing. Leave it out."
        )
    values = torch.from_numpy((image[:, :, None] if image.ndim == 2 else image).astype(np.int32))
    pixels, scales = scaled_frame(values, network_scale * frame.scale)
    cells = (_scaled_cell(cell, scales) for cell in frame.cells)
    return InstanceImage(frame.name, pixels.permute(2, 0, 1), tuple(cell for cell in cells if cell))


def _scaled_cell(cell: AnnotatedCell, scales: tuple[float, float]) -> AnnotatedCell | None:
    """Scale a cell to pixels of the scaled frame. None if nothing of it is left."""
    if scales == (1.0, 1.0):
        return cell
    places, corner = [], []
    for start, length, scale in zip((cell.x, cell.y), cell.mask.shape[::-1], scales, strict=True):
        first, stop = round(start * scale), round((start + length) * scale)
        corner.append(first)
        places.append((np.arange(first, stop) + 0.5) / scale - start - 0.5)
    columns, rows = (each.astype(np.float32) for each in np.meshgrid(*places))
    if not columns.size:
        return None
    values = cv2.remap(cell.mask.astype(np.float32), columns, rows, cv2.INTER_LINEAR)
    mask = values >= 0.5
    return AnnotatedCell.cut(mask, cell.class_id, x=corner[0], y=corner[1]) if mask.any() else None


def study_scale(dataset: AnnotatedDataset, settings: NetworkSettings) -> float:
    """Scale factor that torchvision's transform would apply to the median frame.

    The unit is network pixels per pixel of the frames' common scale. Every frame is trained and
    served at this scale, so that a cell has the same size for the network in all of them.
    """
    sides = [(f.height * f.scale, f.width * f.scale) for f in dataset.frames]
    height, width = np.median(sides, axis=0)
    return float(
        min(settings.min_size / min(height, width), settings.max_size / max(height, width))
    )


def _window_size(image: InstanceImage, settings: MaskrcnnSettings) -> tuple[int, int]:
    """Size (H, W) of a window: the settings' side, but no larger than the image."""
    side = settings.window or settings.max_size
    height, width = image.size
    return min(side, height), min(side, width)


class TrainingInstances(Dataset[Example]):
    """Images that examples are drawn from by `training.run.lightning.EpochBatches`.

    A draw beyond the last image has no cells: it is part of the background of some image, or a
    newly made empty frame.
    """

    def __init__(self, images: Sequence[InstanceImage], settings: MaskrcnnSettings) -> None:
        self.images = images
        self.sizes = [_window_size(image, settings) for image in images]
        self.settings = settings

    def __len__(self) -> int:
        return len(self.images)

    @property
    def empty(self) -> int:
        """Number of draws without cells per epoch."""
        share = self.settings.background_share + self.settings.blank_share
        return round(share * len(self.images) * self.settings.samples_per_frame)

    def __getitem__(self, draw: Draw) -> Example:
        """Return one window, or a whole frame, turned at random."""
        settings, random = self.settings, np.random.default_rng(draw.seed)
        part = self._window(draw.index, random) if draw.index < len(self) else self._empty(random)
        horizontal, vertical, rotation = random.random(3)
        turns = int(random.integers(1, 4))
        if horizontal < settings.horizontal_flip_probability:
            part = part.mirrored()
        if vertical < settings.vertical_flip_probability:
            part = part.mirrored().rotated(2)
        if rotation < settings.rotate_90_probability:
            part = part.rotated(turns)
        return part.example()

    def _window(self, index: int, random: np.random.Generator) -> InstanceImage:
        image, (height, width) = self.images[index], self.sizes[index]
        y = int(random.integers(image.size[0] - height + 1))
        x = int(random.integers(image.size[1] - width + 1))
        return image.window(y, x, height, width, min_visible=self.settings.min_visible)

    def _empty(self, random: np.random.Generator) -> InstanceImage:
        """Draw background from a random image, or make an empty frame if it has none."""
        settings, index = self.settings, int(random.integers(len(self)))
        image, size = self.images[index], self.sizes[index]
        share = settings.background_share + settings.blank_share
        if random.random() * share < settings.background_share:
            part = _background(image, size, random)
            if part is not None:
                return part
        return _blank(image, size, random)


def _background(
    image: InstanceImage, size: tuple[int, int], random: np.random.Generator
) -> InstanceImage | None:
    """Cut a part without cells: of ``size`` (H, W), or down to a quarter of its sides."""
    boxes = np.array([cell.box for cell in image.cells]).reshape(-1, 4)
    low, high = boxes[:, :2] - BACKGROUND_MARGIN, boxes[:, 2:] + BACKGROUND_MARGIN
    for divisor in (1, 2, 4):
        height, width = (max(1, side // divisor) for side in size)
        y = random.integers(0, image.size[0] - height + 1, BACKGROUND_TRIES)
        x = random.integers(0, image.size[1] - width + 1, BACKGROUND_TRIES)
        corner = np.stack([x, y], axis=1)[:, None]
        ends = corner + np.array([width, height])
        touched = ((corner < high) & (ends > low)).all(axis=2).any(axis=1)
        free = np.flatnonzero(~touched)
        if free.size:
            place = int(y[free[0]]), int(x[free[0]])
            return image.window(*place, height, width, min_visible=1.0)
    return None


def _blank(
    image: InstanceImage, size: tuple[int, int], random: np.random.Generator
) -> InstanceImage:
    """Make an empty frame of ``size`` (H, W), in grey or colour like ``image``."""
    grey = torch.equal(image.pixels[0], image.pixels[1])
    camera = torch.from_numpy(blank_frame(random, *size, 1 if grey else 3).astype(np.int32))
    return InstanceImage("blank", scaled_frame(camera, 1.0)[0].permute(2, 0, 1), ())


class ValidationInstances(Dataset[Example]):
    """Images, or the windows that cover them, in a fixed order."""

    def __init__(self, images: Sequence[InstanceImage], settings: MaskrcnnSettings) -> None:
        self.images = [part for image in images for part in _covering(image, settings)]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Example:
        """Return one image and its target."""
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
    """Collate a batch as lists, since images may differ in size."""
    return [image for image, _ in examples], [target for _, target in examples]
