"""Counts what is found in frames without a cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.fields.empty_frames import EmptyFrame
from benchmarks.fields.pipelines import Row, ServedPipeline
from cytoserve import Client
from cytoserve.overlay import draw_overlay

ALL = "all"
"""Kind of the row over all frames."""


def measure_false_cells(
    pipeline: ServedPipeline, frames: Sequence[EmptyFrame]
) -> tuple[list[Row], list[EmptyFrame]]:
    """Count the cells that an instance pipeline finds.

    Returns:
        rows by kind of frame, and the frames in which a cell was found, with its outline.
    """
    counts, drawn = [], []
    for frame in frames:
        found = pipeline.find(frame.image)
        counts.append(len(found))
        if len(found):
            drawn.append(EmptyFrame(frame.name, frame.kind, draw_overlay(frame.image, found)))
    rows = [
        {
            "pipeline": pipeline.name,
            "kind": kind,
            "frames": len(own),
            "false_cells": sum(own),
            "per_frame": sum(own) / len(own),
            "frames_with_cells": int(np.count_nonzero(own)),
        }
        for kind, own in _by_kind(frames, counts).items()
    ]
    return rows, drawn


def measure_false_foreground(
    client: Client, pipeline: str, frames: Sequence[EmptyFrame]
) -> list[Row]:
    """Return the mean share of foreground pixels of a semantic pipeline, by kind of frame."""
    shares = [float(client.foreground(frame.image, pipeline).mask.mean()) for frame in frames]
    return [
        {
            "pipeline": pipeline,
            "kind": kind,
            "frames": len(own),
            "share": float(np.mean(own)),
            "largest_share": float(np.max(own)),
        }
        for kind, own in _by_kind(frames, shares).items()
    ]


def _by_kind(frames: Sequence[EmptyFrame], values: Sequence[float]) -> Mapping[str, list[float]]:
    """Group one value per frame by kind; the values of `ALL` frames come last."""
    kinds: dict[str, list[float]] = {}
    for frame, value in zip(frames, values, strict=True):
        kinds.setdefault(frame.kind, []).append(value)
    return {**kinds, ALL: list(values)}
