"""What a tile costs in a frame of many tiles, and in a frame of one."""

from __future__ import annotations

import statistics

from benchmarks.fields.pipelines import Row, ServedPipeline, scene_number
from benchmarks.fields.scenes import SIDE
from benchmarks.harness.new_frames import each_time_new
from benchmarks.harness.timing import WARM_UPS, time_interleaved
from cytoserve.contract import PIPELINES
from cytoserve.operating_point import operating_point
from cytoserve.settings import Settings

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
