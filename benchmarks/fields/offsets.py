"""Does the place of the frame change how many cells are found?

The same scene is seen by a camera that was moved by a few pixels. Cells are counted whose middle
lies in the part that all positions see, away from its border, where cells are cut differently.
"""

from __future__ import annotations

import numpy as np

from benchmarks.fields.pipelines import Row, ServedPipeline, scene_number
from benchmarks.fields.scenes import OFFSETS, Scene, shifted
from cytoserve import Cells

MARGIN = 64
"""Pixels from the border of the common part within which no cell is counted."""


def measure_offsets(pipeline: ServedPipeline, scenes: int, side: int) -> list[Row]:
    """Count the cells of scenes of ``side`` x ``side`` pixels at no offset and at `OFFSETS`.

    Returns:
        a row for each offset: ``found`` in all scenes, and ``deviation`` from the mean over all
        offsets, as a share of it. The deviation is NaN where nothing was found.
    """
    offsets = [(0, 0), *OFFSETS]
    counts = np.zeros(len(offsets))
    for number in range(scenes):
        parts = shifted(scene_number(number, side, side), offsets)
        counts += [count_common(pipeline.find(part.image), part, side) for part in parts]
    mean = counts.mean()
    return [
        {
            "pipeline": pipeline.name,
            "offset": f"{x}, {y}",
            "scenes": scenes,
            "side": side,
            "found": int(count),
            "deviation": float(abs(count - mean) / mean) if mean else float("nan"),
        }
        for (x, y), count in zip(offsets, counts, strict=True)
    ]


def count_common(found: Cells, part: Scene, side: int) -> int:
    """Cells of a shifted part of a scene whose middle all parts see, `MARGIN` from the border."""
    middles = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2 + np.array(part.origin)
    low = np.max(OFFSETS, axis=0) + MARGIN
    high = side - np.max(OFFSETS, axis=0) - MARGIN
    return int(np.count_nonzero(((middles >= low) & (middles < high)).all(axis=1)))
