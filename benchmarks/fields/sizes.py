"""Does the size of a frame change what is found in it? And do its outlines hold?

A scene of several training fields is sent whole, and cut into fields. A field in the corner of a
larger frame is compared with the same field alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from benchmarks.fields.outlines import FrameOutlines, measure_frame
from benchmarks.fields.pipelines import Row, ServedPipeline, quality_of, ratios, scene_number
from benchmarks.fields.scenes import SIDE, Scene, crop, crops
from cytoserve import Cells, cells_from_labels

GRIDS = {1: (1, 1), 4: (2, 2), 10: (2, 5), 16: (4, 4), 36: (6, 6)}
"""Fields of a scene -> rows and columns of fields."""

CORNER_FRAME = (960, 1280)
"""Height and width in pixels of the frame whose corners are looked at."""


def measure_sizes(
    pipeline: ServedPipeline, scenes: Mapping[int, int]
) -> tuple[list[Row], list[FrameOutlines]]:
    """Compare whole scenes with the same scenes in fields.

    Args:
        pipeline: is asked.
        scenes: fields of a scene, one of `GRIDS`, -> number of such scenes.

    Returns:
        a row for each size, and the outlines that were found in the whole scenes.
    """
    rows, outlines = [], []
    for fields, count in scenes.items():
        whole, cut = [], []
        height, width = (SIDE * side for side in GRIDS[fields])
        for number in range(count):
            scene = scene_number(number, height, width)
            found = pipeline.find(scene.image)
            whole.append((found, scene))
            outlines.append(measure_frame(found, scene.cells))
            # A scene of one field is its only crop.
            parts = crops(scene, SIDE) if fields > 1 else []
            cut += [(pipeline.find(part.image), part) for part in parts] or whole[-1:]
        ours, reference = quality_of(whole), quality_of(cut)
        rows.append(
            {
                "pipeline": pipeline.name,
                "fields": fields,
                "height": height,
                "width": width,
                "scenes": count,
                "cells": sum(len(scene.cells) for _, scene in whole),
                **ours,
                **{f"cut_{name}": figure for name, figure in reference.items()},
                **ratios(ours, reference),
            }
        )
    return rows, outlines


def measure_corners(pipeline: ServedPipeline, scenes: int) -> Row:
    """Compare fields alone with the same fields in the four corners of larger frames."""
    height, width = CORNER_FRAME
    alone, inside = [], []
    for number in range(scenes):
        scene = scene_number(number, height, width)
        whole = pipeline.find(scene.image)
        for y in (0, height - SIDE):
            for x in (0, width - SIDE):
                field = crop(scene, x, y, SIDE, SIDE)
                alone.append((pipeline.find(field.image), field))
                inside.append((cells_inside(whole, field), field))
    ours, reference = quality_of(inside), quality_of(alone)
    return {
        "pipeline": pipeline.name,
        "scenes": scenes,
        "cells": sum(len(field.cells) for _, field in alone),
        **ours,
        **{f"cut_{name}": figure for name, figure in reference.items()},
        **ratios(ours, reference),
    }


def cells_inside(whole: Cells, field: Scene) -> Cells:
    """The cells of a frame's answer as a crop of the frame shows them, in pixels of the crop."""
    (x, y), (height, width) = field.origin, field.shape
    labels = whole.label_image()[y : y + height, x : x + width]
    numbers = np.unique(labels[labels > 0]).astype(int)
    places = np.searchsorted(numbers, labels) + 1
    cells = cells_from_labels(
        np.where(labels > 0, places, 0), whole.class_ids[numbers - 1], whole.class_names
    )
    return replace(cells, scores=whole.scores[numbers - 1])
