"""Measures served pipelines: quality of the cells found in scenes, and seconds per frame."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.fields.scenes import SIDE, Scene, render_scene, without_slivers
from benchmarks.harness.load import each_time_new
from benchmarks.harness.timing import WARM_UPS, time_interleaved
from benchmarks.instances.quality import ap50, encode_frame
from cytoserve import Cells, Client, ModelCard
from cytoserve.contract import PIPELINES
from cytoserve.operating_point import operating_point
from cytoserve.settings import Settings
from training.evaluation import match_cells, quality

FIRST_SEED = 500_000
"""Seed of the first scene, far from the seeds of rendered data sets."""

FIGURES = {
    "recall": "recall",
    "precision": "precision",
    "f1": "F1",
    "ap50": "AP50",
    "panoptic_quality": "PQ",
}
"""Figure of `quality_of` -> its title in tables."""

Image = npt.NDArray[Any]
Row = dict[str, Any]
Answers = Sequence[tuple[Cells, Scene]]


@dataclass(frozen=True)
class ServedPipeline:
    """An instance pipeline of a running server."""

    client: Client
    name: str
    card: ModelCard

    def find(self, image: Image, **scale: Any) -> Cells:
        """Return the cells of a frame, with the thresholds of the card.

        Args:
            image: the frame.
            scale: an argument of `Client.segment` that states the frame's scale, or nothing.
        """
        return self.client.segment(image, self.name, **scale)


@cache  # all pipelines segment the same scenes
def scene_number(number: int, height: int, width: int) -> Scene:
    """Render a scene of a size; each ``number`` gives another scene."""
    return render_scene(height, width, FIRST_SEED + number)


def quality_of(answers: Answers) -> dict[str, float]:
    """Return `FIGURES` over all scenes together, as NaN if there is nothing to measure.

    Cells on slivers count neither as right nor as wrong.
    """
    counted = [(without_slivers(found, scene), scene.cells) for found, scene in answers]
    found = quality([match_cells(cells, truth) for cells, truth in counted])
    encoded = [
        encode_frame(
            replace(cells, class_ids=np.zeros_like(cells.class_ids)),
            [replace(cell, class_id=0) for cell in truth],
        )
        for cells, truth in counted
    ]
    figures = {name: float(getattr(found, name)) for name in FIGURES if name != "ap50"}
    return {name: figures.get(name, ap50(encoded, 1)) for name in FIGURES}


def ratios(ours: dict[str, float], reference: dict[str, float]) -> dict[str, float]:
    """Return ``ratio_<figure>`` per figure, and ``least_ratio``; NaN if a figure is NaN or 0."""
    each = {
        f"ratio_{name}": ours[name] / reference[name] if reference[name] else float("nan")
        for name in FIGURES
    }
    return {**each, "least_ratio": float(np.min(list(each.values())))}


SIDES = (SIDE, 2048)
"""Sides of the timed square frames in pixels."""


def measure_seconds(pipeline: ServedPipeline, repeats: int) -> list[Row]:
    """Return median seconds per frame, end to end, and per tile; both sizes are interleaved.

    Every request has a new frame, so that no answer comes from the server's response cache.
    """
    kind = PIPELINES[pipeline.name]
    scenes = {side: scene_number(0, side, side) for side in SIDES}
    calls = {
        side: each_time_new(pipeline.find, scene.image, repeats + WARM_UPS)
        for side, scene in scenes.items()
    }
    times = time_interleaved(calls, repeats)
    rows = []
    for side, scene in scenes.items():
        shape = scene.image.shape
        tiles = operating_point(Settings(), pipeline.card, shape, kind).tiles(shape, kind)
        seconds = statistics.median(times[side])
        rows.append(
            {
                "pipeline": pipeline.name,
                "side": side,
                "cells": len(scene.cells),
                "tiles": tiles,
                "seconds": seconds,
                "seconds_per_tile": seconds / tiles,
            }
        )
    return rows
