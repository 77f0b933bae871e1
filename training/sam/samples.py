"""Samples for the steps of a SAM training: prompts and truths, newly drawn every time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from training.run.lightning import Draw
from training.sam.dense import dense_truth
from training.sam.frames import SamFrame, Sides
from training.sam.prompts import (
    Prompts,
    box_prompts,
    draw_coarse_masks,
    draw_points,
    jitter_boxes,
    point_prompts,
)
from training.sam.settings import SamSettings
from training.sam.views import draw_view


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
    """True maps float32 ``[4, G, G]``, see `training.sam.dense`."""


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
