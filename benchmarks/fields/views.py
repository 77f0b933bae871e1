"""Measures how answers change with the size, scale and place of the same scenes.

**Place.** The same scene is seen by a camera that was moved by a few pixels. Cells are counted
whose middle lies in the part that all positions see, away from its border, where cells are cut
differently. **Size.** A scene of several training fields is sent whole, and cut into fields. A
field in the corner of a larger frame is compared with the same field alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.fields.outlines import FrameOutlines, measure_frame
from benchmarks.fields.pipelines import Row, ServedPipeline, quality_of, ratios, scene_number
from benchmarks.fields.scenes import FACTORS, OFFSETS, SIDE, Scene, crop, crops, resized, shifted
from cytoserve import Cells, cells_from_labels
from cytoserve.codec.cards import LearnedScale
from cytoserve.settings import FIT

NOTHING = "nothing"
"""Name of the option to state no scale."""

Arguments = Callable[[float], dict[str, Any]]
"""Factor by which a frame was resized -> arguments that state its scale."""


def measure_factors(pipeline: ServedPipeline, scenes: int, side: int) -> list[Row]:
    """Resize scenes of ``side`` x ``side`` pixels, and segment them with their scale stated or not.

    Returns:
        one row per option and factor. ``drop`` is the F1 of the scenes as rendered minus that of
        the row. It is None for factor 1 and for options that state no scale.
    """
    rendered = [scene_number(number, side, side) for number in range(scenes)]
    usual = quality_of([(pipeline.find(scene.image), scene) for scene in rendered])
    rows = []
    for told, arguments in scale_options(pipeline.card.scale).items():
        for factor in sorted((1.0, *FACTORS)):
            views = [resized(scene, factor) for scene in rendered] if factor != 1 else rendered
            if (told, factor) == (NOTHING, 1.0):
                figures = usual
            else:
                asked = arguments(factor)
                figures = quality_of([(pipeline.find(view.image, **asked), view) for view in views])
            bounded = told not in (NOTHING, FIT) and factor != 1
            rows.append(
                {
                    "pipeline": pipeline.name,
                    "told": told,
                    "factor": factor,
                    "scenes": scenes,
                    "side": side,
                    **figures,
                    "drop": usual["f1"] - figures["f1"] if bounded else None,
                }
            )
    return rows


def scale_options(learned: LearnedScale | None) -> dict[str, Arguments]:
    """Return the options to state a frame's scale to a pipeline with this card, by name."""
    options: dict[str, Arguments] = {NOTHING: lambda factor: {}, FIT: lambda factor: {"scale": FIT}}
    if learned is None:
        return options
    diameter, pixel_size = learned.cell_diameter_px, learned.pixel_size_um
    options["cell diameter"] = lambda factor: {"cell_diameter_px": diameter * factor}
    if pixel_size is not None:
        options["pixel size"] = lambda factor: {"pixel_size_um": pixel_size / factor}
    return options


MARGIN = 64
"""Distance in pixels from the border of the common part within which no cell counts."""


def measure_offsets(pipeline: ServedPipeline, scenes: int, side: int) -> list[Row]:
    """Count the cells of scenes of ``side`` x ``side`` pixels at no offset and at `OFFSETS`.

    Returns:
        one row per offset: ``found`` in all scenes, and ``deviation`` from the mean over all
        offsets, as a share of it. The deviation is NaN if nothing was found.
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
    """Count a shifted part's cells whose middle all parts see, `MARGIN` or more from the border."""
    middles = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2 + np.array(part.origin)
    low = np.max(OFFSETS, axis=0) + MARGIN
    high = side - np.max(OFFSETS, axis=0) - MARGIN
    return int(np.count_nonzero(((middles >= low) & (middles < high)).all(axis=1)))


GRIDS = {1: (1, 1), 4: (2, 2), 10: (2, 5), 16: (4, 4), 36: (6, 6)}
"""Number of fields in a scene -> rows and columns of fields."""

CORNER_FRAME = (960, 1280)
"""Height and width in pixels of the frame whose corners are measured."""


def measure_sizes(
    pipeline: ServedPipeline, scenes: Mapping[int, int]
) -> tuple[list[Row], list[FrameOutlines]]:
    """Compare whole scenes with the same scenes cut into fields.

    Args:
        pipeline: the pipeline to measure.
        scenes: number of fields per scene, one of `GRIDS`, -> number of such scenes.

    Returns:
        one row per size, and the outlines that were found in the whole scenes.
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
    """Return the cells of a frame's answer as a crop shows them, in pixels of the crop."""
    (x, y), (height, width) = field.origin, field.shape
    labels = whole.label_image()[y : y + height, x : x + width]
    numbers = np.unique(labels[labels > 0]).astype(int)
    places = np.searchsorted(numbers, labels) + 1
    cells = cells_from_labels(
        np.where(labels > 0, places, 0), whole.class_ids[numbers - 1], whole.class_names
    )
    return replace(cells, scores=whole.scores[numbers - 1])
