"""The pipelines that are measured: what they find in a scene, and how long they take."""

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
from training.evaluation.matching import match_cells, quality

FIRST_SEED = 500_000
"""Of the scenes: far from the seeds of rendered data sets."""

FIGURES = {
    "recall": "recall",
    "precision": "precision",
    "f1": "F1",
    "ap50": "AP50",
    "panoptic_quality": "PQ",
}
"""Figures of `quality_of`, and their titles in tables."""

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
        """The cells of a frame, with the thresholds of the card.

        Args:
            image: the frame.
            scale: one of the arguments of `Client.segment` that tell a frame's scale, or none.
        """
        return self.client.segment(image, self.name, **scale)


@cache  # all pipelines are asked with the same scenes
def scene_number(number: int, height: int, width: int) -> Scene:
    """Render one of the scenes of a size; another ``number``, another scene."""
    return render_scene(height, width, FIRST_SEED + number)


def quality_of(answers: Answers) -> dict[str, float]:
    """The figures of `FIGURES` over all scenes together; NaN where there is nothing to measure.

    Cells that lie on slivers count neither as right nor as wrong.
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
    """``ratio_<figure>`` of every figure, and ``least_ratio``; NaN where one is NaN or 0."""
    each = {
        f"ratio_{name}": ours[name] / reference[name] if reference[name] else float("nan")
        for name in FIGURES
    }
    return {**each, "least_ratio": float(np.min(list(each.values())))}


SIDES = (SIDE, 2048)
"""Of the frames in pixels."""


def measure_seconds(pipeline: ServedPipeline, repeats: int) -> list[Row]:
    """Median seconds of a frame, end to end, and those per tile; both sizes are timed in turn.

    Every request is of a new frame, so that nothing comes from the server's response cache.
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
