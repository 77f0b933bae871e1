"""Are the cells of a resized frame found, where its scale is told?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.fields.pipelines import Row, ServedPipeline, quality_of, scene_number
from benchmarks.fields.scenes import FACTORS, resized
from cytoserve.codec.cards import LearnedScale
from cytoserve.settings import FIT

NOTHING = "nothing"
"""The caller tells no scale."""

Arguments = Callable[[float], dict[str, Any]]
"""Factor by which a frame was resized -> what the caller tells of its scale."""


def measure_factors(pipeline: ServedPipeline, scenes: int, side: int) -> list[Row]:
    """Resize scenes of ``side`` x ``side`` pixels, and ask with their scale told in several ways.

    Returns:
        a row for each way and factor. ``drop`` is the F1 of the scenes as they were rendered less
        that of the row; None in the rows of factor 1 and of those that tell no scale.
    """
    rendered = [scene_number(number, side, side) for number in range(scenes)]
    usual = quality_of([(pipeline.find(scene.image), scene) for scene in rendered])
    rows = []
    for told, arguments in ways_to_tell(pipeline.card.scale).items():
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


def ways_to_tell(learned: LearnedScale | None) -> dict[str, Arguments]:
    """What a caller can tell of a frame's scale to a pipeline with this card, by its name."""
    ways: dict[str, Arguments] = {NOTHING: lambda factor: {}, FIT: lambda factor: {"scale": FIT}}
    if learned is None:
        return ways
    diameter, pixel_size = learned.cell_diameter_px, learned.pixel_size_um
    ways["cell diameter"] = lambda factor: {"cell_diameter_px": diameter * factor}
    if pixel_size is not None:
        ways["pixel size"] = lambda factor: {"pixel_size_um": pixel_size / factor}
    return ways
