"""Measures how answers change with the size, place and scale of the same scenes.

**Size.** A scene of several training fields is sent whole, and cut into fields. **Place.** The same
scene is seen by a camera that was moved by a few pixels. Cells are counted whose middle lies in the
part that all positions see, away from its border, where cells are cut differently. **Scale.** A
scene is resized, with and without a stated scale. Frames without cells must stay empty.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from benchmarks.fields.empty_frames import EmptyFrame
from benchmarks.fields.result import (
    ALL,
    DoubledRow,
    EmptyRow,
    FactorRow,
    Figures,
    ForegroundRow,
    OffsetRow,
    SizeRow,
)
from benchmarks.fields.scenes import (
    FACTORS,
    OFFSETS,
    SIDE,
    Scene,
    crops,
    render_scene,
    resized,
    shifted,
    without_slivers,
)
from benchmarks.harness.average_precision import ap50, encode_frame
from cytoserve import Cells, Client, ModelCard
from cytoserve.codec.cards import LearnedScale
from cytoserve.patches import Region, regions
from cytoserve.settings import FIT
from training.evaluation import match_cells, quality

FIRST_SEED = 500_000
"""Seed of the first scene, far from the seeds of rendered data sets."""

Image = npt.NDArray[Any]
Answers = Sequence[tuple[Cells, Scene]]
Value = TypeVar("Value", int, float)


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


def quality_of(answers: Answers) -> Figures:
    """Return the figures over all scenes together.

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
    return Figures(
        recall=found.recall,
        precision=found.precision,
        f1=found.f1,
        ap50=ap50(encoded, 1),
        panoptic_quality=found.panoptic_quality,
    )


# -- Size -----------------------------------------------------------------------------------------

GRIDS = {1: (1, 1), 4: (2, 2), 10: (2, 5), 16: (4, 4), 36: (6, 6)}
"""Number of fields in a scene -> rows and columns of fields."""


def measure_sizes(
    pipeline: ServedPipeline, scenes: Mapping[int, int]
) -> tuple[list[SizeRow], DoubledRow]:
    """Compare whole scenes with the same scenes cut into fields.

    Args:
        pipeline: the pipeline to measure.
        scenes: number of fields per scene, one of `GRIDS`, -> number of such scenes.

    Returns:
        one row per size, and the doubled cells of the whole scenes.
    """
    rows, doubled = [], []
    for fields, count in scenes.items():
        whole, cut = [], []
        height, width = (SIDE * side for side in GRIDS[fields])
        for number in range(count):
            scene = scene_number(number, height, width)
            found = pipeline.find(scene.image)
            whole.append((found, scene))
            doubled += doubled_cells(found).tolist()
            # A scene of one field is its only crop.
            parts = crops(scene, SIDE) if fields > 1 else []
            cut += [(pipeline.find(part.image), part) for part in parts] or whole[-1:]
        rows.append(
            SizeRow(
                pipeline=pipeline.name,
                fields=fields,
                height=height,
                width=width,
                scenes=count,
                cells=sum(len(scene.cells) for _, scene in whole),
                whole=quality_of(whole),
                cut=quality_of(cut),
            )
        )
    share = float(np.mean(doubled)) if doubled else float("nan")
    return rows, DoubledRow(pipeline=pipeline.name, cells=len(doubled), doubled=share)


DOUBLED_OVERLAP = 0.7
"""Share of the smaller of two masks above which both are the same cell."""


def doubled_cells(found: Cells) -> npt.NDArray[np.bool_]:
    """Find cells that share over `DOUBLED_OVERLAP` of the smaller mask with another: bool ``[N]``.

    The masks are the network's, before the label image separates the cells.
    """
    claims = list(regions(found.boxes, found.patches, found.frame_shape))
    areas = np.array([np.count_nonzero(claim.mask) for claim in claims])
    ends = [(c.columns.start, c.rows.start, c.columns.stop, c.rows.stop) for c in claims]
    x0, y0, x1, y1 = np.array(ends, int).reshape(-1, 4).T
    doubled = np.zeros(len(claims), np.bool_)
    for index, claim in enumerate(claims):
        meet = (x0 < x1[index]) & (x1 > x0[index]) & (y0 < y1[index]) & (y1 > y0[index])
        meet[: index + 1] = False  # each pair once
        for other in np.flatnonzero(meet):
            if _shared(claim, claims[other]) > DOUBLED_OVERLAP * min(areas[index], areas[other]):
                doubled[[index, other]] = True
    return doubled


def _shared(one: Region, other: Region) -> int:
    """Count the pixels that two regions share."""
    masks = []
    for region, beside in ((one, other), (other, one)):
        window = tuple(
            slice(max(own.start, its.start) - own.start, min(own.stop, its.stop) - own.start)
            for own, its in ((region.rows, beside.rows), (region.columns, beside.columns))
        )
        masks.append(region.mask[window])
    return int(np.count_nonzero(masks[0] & masks[1]))


# -- Scale ----------------------------------------------------------------------------------------

NOTHING = "nothing"
"""Name of the option to state no scale."""

Arguments = Callable[[float], dict[str, Any]]
"""Factor by which a frame was resized -> arguments that state its scale."""


def measure_factors(pipeline: ServedPipeline, scenes: int, side: int) -> list[FactorRow]:
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
                FactorRow(
                    pipeline=pipeline.name,
                    told=told,
                    factor=factor,
                    scenes=scenes,
                    side=side,
                    figures=figures,
                    drop=usual.f1 - figures.f1 if bounded else None,
                )
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


# -- Place ----------------------------------------------------------------------------------------

MARGIN = 64
"""Distance in pixels from the border of the common part within which no cell counts."""


def measure_offsets(pipeline: ServedPipeline, scenes: int, side: int) -> list[OffsetRow]:
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
        OffsetRow(
            pipeline=pipeline.name,
            offset=f"{x}, {y}",
            scenes=scenes,
            side=side,
            found=int(count),
            deviation=float(abs(count - mean) / mean) if mean else float("nan"),
        )
        for (x, y), count in zip(offsets, counts, strict=True)
    ]


def count_common(found: Cells, part: Scene, side: int) -> int:
    """Count a shifted part's cells whose middle all parts see, `MARGIN` or more from the border."""
    middles = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2 + np.array(part.origin)
    low = np.max(OFFSETS, axis=0) + MARGIN
    high = side - np.max(OFFSETS, axis=0) - MARGIN
    return int(np.count_nonzero(((middles >= low) & (middles < high)).all(axis=1)))


# -- Frames without cells -------------------------------------------------------------------------


def measure_empty(pipeline: ServedPipeline, frames: Sequence[EmptyFrame]) -> list[EmptyRow]:
    """Count the cells that an instance pipeline finds in frames without any, by kind of frame."""
    counts = [len(pipeline.find(frame.image)) for frame in frames]
    return [
        EmptyRow(
            pipeline=pipeline.name,
            kind=kind,
            frames=len(own),
            false_cells=sum(own),
            frames_with_cells=int(np.count_nonzero(own)),
        )
        for kind, own in _by_kind(frames, counts).items()
    ]


def measure_foreground(
    client: Client, pipeline: str, frames: Sequence[EmptyFrame]
) -> list[ForegroundRow]:
    """Return the mean share of foreground pixels of a semantic pipeline, by kind of frame."""
    shares = [float(client.foreground(frame.image, pipeline).mask.mean()) for frame in frames]
    return [
        ForegroundRow(
            pipeline=pipeline,
            kind=kind,
            frames=len(own),
            share=float(np.mean(own)),
            largest_share=float(np.max(own)),
        )
        for kind, own in _by_kind(frames, shares).items()
    ]


def _by_kind(frames: Sequence[EmptyFrame], values: Sequence[Value]) -> Mapping[str, list[Value]]:
    """Group one value per frame by kind; the values of `ALL` frames come last."""
    kinds: dict[str, list[Value]] = {}
    for frame, value in zip(frames, values, strict=True):
        kinds.setdefault(frame.kind, []).append(value)
    return {**kinds, ALL: list(values)}
