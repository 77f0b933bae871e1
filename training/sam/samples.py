"""Samples for the steps of a SAM training: views of a frame, prompts and truths, drawn every time.

Flips and quarter turns show ten frames in only eighty ways, which is few for a network that starts
from random weights. A view turns a frame by any angle, zooms, stretches and moves it, and changes
its light, so that no two are the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from training.datasets.annotated import AnnotatedCell
from training.run.lightning import Draw
from training.sam.frames import SamFrame, Sides, dense_truth
from training.sam.prompts import (
    Prompts,
    box_prompts,
    draw_coarse_masks,
    draw_points,
    jitter_boxes,
    point_prompts,
)
from training.sam.settings import SamSettings


class TrainingSample(NamedTuple):
    """Sample of one frame for a training step."""

    image: Tensor
    """Image uint8 ``[3, h, w]``, see :class:`SamFrame`."""
    prompts: Prompts
    truths: Tensor
    """Truths float32 ``[N, G, G]``, the share of every grid pixel that each cell covers."""


class DenseSample(NamedTuple):
    """Sample of one frame for a training step without prompts."""

    image: Tensor
    """Image uint8 ``[3, h, w]``, see :class:`SamFrame`."""
    truth: Tensor
    """True maps float32 ``[4, G, G]``, see `training.sam.frames.dense_truth`."""


class TrainingSamples(Dataset[Any]):
    """Frames with cells, from which `training.run.lightning.EpochBatches` draws samples."""

    def __init__(self, frames: Sequence[SamFrame], sides: Sides, settings: SamSettings) -> None:
        self.frames = frames
        self.sides = sides
        self.settings = settings
        self.dense = False
        """Whether samples are drawn for steps without prompts."""

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, draw: Draw) -> TrainingSample | DenseSample:
        """Return one augmented frame, with prompts for some of its cells, all of one kind."""
        generator = torch.Generator().manual_seed(draw.seed)
        frame = self.frames[draw.index]
        change = draw_view if self.settings.views else self._turned
        frame = change(frame, generator)
        if self.dense:
            return DenseSample(frame.rgb(), dense_truth(frame, self.sides))
        order = torch.randperm(len(frame.cells), generator=generator)
        frame = frame.chosen(order[: self.settings.prompts_per_frame].tolist())
        truths = frame.truths(self.sides)
        return TrainingSample(frame.rgb(), self._prompts(frame, truths, generator), truths)

    def _turned(self, frame: SamFrame, generator: torch.Generator) -> SamFrame:
        settings = self.settings
        mirror_x, mirror_y = (
            torch.rand(2, generator=generator) < settings.flip_probability
        ).tolist()
        turns = int(torch.randint(4, (), generator=generator))
        if mirror_x:
            frame = frame.mirrored()
        if mirror_y:
            frame = frame.transposed().mirrored().transposed()
        for _ in range(turns if settings.rotate_90 else 0):
            frame = frame.transposed().mirrored()
        return frame

    def _prompts(self, frame: SamFrame, truths: Tensor, generator: torch.Generator) -> Prompts:
        settings, step = self.settings, self.sides.step
        alone, added, masked = torch.rand(3, generator=generator).tolist()
        height, width = frame.pixels.shape[1:]
        boxes = jitter_boxes(frame.boxes(), (height, width), generator, spread=settings.box_spread)
        prompts = box_prompts(boxes)
        if alone < settings.points_alone:
            points, labels = draw_points(truths, boxes / step, step, generator)
            prompts = point_prompts(points, labels)
        elif added < settings.points_added:
            points, labels = draw_points(truths, boxes / step, step, generator)
            prompts = Prompts(
                torch.cat([points, prompts.points], dim=1),
                torch.cat([labels, prompts.labels], dim=1),
                None,
            )
        if masked < settings.coarse_masks:
            prompts = prompts._replace(masks=draw_coarse_masks(truths, boxes / step, generator))
        return prompts


ZOOM = (0.75, 1.4)
"""Smallest and largest zoom factor of a view."""
STRETCH = 0.12
"""Maximum stretch of one axis relative to the other, as a logarithm."""
MOVE = 0.15
"""Maximum distance of a view's centre from that of the frame, in sides of the frame."""
CONTRAST = (0.7, 1.35)
"""Smallest and largest factor by which differences from the mean grey are multiplied."""
BRIGHTNESS = 25.0
"""Maximum value that is added to every pixel, on a scale of 255."""
NOISE = 8.0
"""Maximum standard deviation of added noise, on a scale of 255."""
MIN_SHARE = 0.25
"""Minimum share of a cell that a view must keep; otherwise the cell is dropped."""

Affine = npt.NDArray[np.float64]
"""Affine map ``[2, 3]`` from a point (x, y) of the frame to the view."""


def draw_view(frame: SamFrame, generator: torch.Generator) -> SamFrame:
    """Draw a random view of ``frame``, of the same size.

    Beyond the frame, a view shows the frame's mean grey. Cells keep their order. Of a cell that the
    view cuts, the visible part remains. If no cell would remain, the view is the frame itself in
    different light.
    """
    height, width = frame.pixels.shape[1:]
    view = _draw_affine(width, height, generator)
    scale = np.array(frame.scale)
    in_frame = np.concatenate(
        [view[:, :2] * scale / scale[:, None], view[:, 2:] / scale[:, None]], axis=1
    )
    cells = tuple(seen for c in frame.cells if (seen := _seen(c, in_frame, frame.size)) is not None)
    if not cells:
        return replace(frame, pixels=_draw_light(frame.pixels, generator))
    grey = frame.pixels.float().mean(dim=(1, 2)).tolist()
    planes = np.ascontiguousarray(frame.pixels.permute(1, 2, 0).numpy())
    moved = cv2.warpAffine(
        planes,
        _of_pixel_centres(view),
        (width, height),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=grey,
    )
    pixels = torch.from_numpy(moved.reshape(height, width, -1)).permute(2, 0, 1)
    return replace(frame, pixels=_draw_light(pixels, generator), cells=cells)


def _draw_affine(width: int, height: int, generator: torch.Generator) -> Affine:
    angle, zoom, stretch, x, y, mirrored = torch.rand(6, generator=generator).tolist()
    angle *= 2 * math.pi
    turned = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    along = math.exp(STRETCH * (2 * stretch - 1))
    factor = ZOOM[0] * (ZOOM[1] / ZOOM[0]) ** zoom
    linear = factor * turned @ np.diag([along * (-1 if mirrored < 0.5 else 1), 1 / along])
    size = np.array([width, height])
    looked_at = size * (0.5 + MOVE * (2 * np.array([x, y]) - 1))
    return np.column_stack([linear, size / 2 - linear @ looked_at])


def _of_pixel_centres(affine: Affine) -> Affine:
    """Convert a map to coordinates that count pixel centres, as in OpenCV, instead of edges."""
    half = np.array([0.5, 0.5])
    return np.column_stack([affine[:, :2], affine[:, 2] + affine[:, :2] @ half - half])


def _seen(cell: AnnotatedCell, affine: Affine, size: tuple[int, int]) -> AnnotatedCell | None:
    """Return the part of a cell that a view shows. None if it is too small."""
    x0, y0, x1, y1 = cell.box
    corners = np.array([(x0, y0), (x1, y0), (x0, y1), (x1, y1)]) @ affine[:, :2].T + affine[:, 2]
    low = np.maximum(np.floor(corners.min(axis=0)), 0).astype(int)
    high = np.minimum(np.ceil(corners.max(axis=0)), size[::-1]).astype(int)
    if np.any(high <= low):
        return None
    from_patch = affine.copy()
    from_patch[:, 2] += affine[:, :2] @ (x0, y0) - low
    mask = cv2.warpAffine(
        cell.mask.astype(np.uint8),
        _of_pixel_centres(from_patch),
        tuple(int(side) for side in high - low),
        flags=cv2.INTER_NEAREST,
    ).astype(bool)
    whole = cell.area * abs(float(np.linalg.det(affine[:, :2])))
    if not mask.any() or np.count_nonzero(mask) < MIN_SHARE * whole:
        return None
    return AnnotatedCell.cut(mask, cell.class_id, x=int(low[0]), y=int(low[1]))


def _draw_light(pixels: Tensor, generator: torch.Generator) -> Tensor:
    contrast, brightness, noise = torch.rand(3, generator=generator).tolist()
    image = pixels.float()
    mean = image.mean()
    factor = CONTRAST[0] * (CONTRAST[1] / CONTRAST[0]) ** contrast
    image = (image - mean) * factor + mean + BRIGHTNESS * (2 * brightness - 1)
    image += torch.randn(image.shape, generator=generator) * (NOISE * noise)
    changed: Tensor = image.round().clamp(0, 255).to(torch.uint8)
    return changed
