"""The result of `benchmarks.fields`: its figures, bounds and page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.harness.bounds import Bound, judge, verdicts_table
from benchmarks.harness.results import Result, machine_note, table_of

ALL = "all"
"""Kind of the row over all frames without cells."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Quality of the cells found in scenes, whatever their class; NaN if there is nothing.

    `training.evaluation` defines all but AP50, which is COCO's.
    """

    recall: float
    precision: float
    f1: float
    ap50: float
    panoptic_quality: float


@dataclass(frozen=True, kw_only=True)
class SizeRow:
    """Scenes of some training fields, sent whole and cut into fields."""

    pipeline: str
    fields: int
    """Number of training fields in the scene."""
    height: int
    width: int
    scenes: int
    cells: int
    whole: Figures
    cut: Figures
    """Figures of the same scenes cut into fields."""

    @property
    def ratios(self) -> dict[str, float]:
        """Figure -> whole / cut; NaN if a figure is NaN or 0."""
        cut = vars(self.cut)
        return {
            name: figure / cut[name] if cut[name] else float("nan")
            for name, figure in vars(self.whole).items()
        }

    @property
    def least_ratio(self) -> float:
        """The least of the ratios; NaN if one is."""
        return min(self.ratios.values(), key=lambda ratio: (ratio == ratio, ratio))


@dataclass(frozen=True, kw_only=True)
class OffsetRow:
    """Scenes as a camera sees them after a move."""

    pipeline: str
    offset: str
    """``x, y`` in pixels."""
    scenes: int
    side: int
    """Side of the scenes in pixels."""
    found: int
    """Cells found in the part that all offsets see."""
    deviation: float
    """Difference from the mean over all offsets, as a share of it; NaN if nothing was found."""


@dataclass(frozen=True, kw_only=True)
class FactorRow:
    """Resized scenes."""

    pipeline: str
    told: str
    """The fact about the scale that the caller tells: ``nothing``, ``fit``, or a size."""
    factor: float
    """Factor by which sides were multiplied."""
    scenes: int
    side: int
    """Side of the scenes in pixels before."""
    figures: Figures
    drop: float | None
    """F1 of the scenes as rendered - F1; None for factor 1 and where no scale is told."""


@dataclass(frozen=True, kw_only=True)
class EmptyRow:
    """Frames of one kind without cells, for a pipeline that finds cells."""

    pipeline: str
    kind: str
    """Kind of frame, or `ALL`."""
    frames: int
    false_cells: int
    frames_with_cells: int

    @property
    def per_frame(self) -> float:
        """False cells / frames."""
        return self.false_cells / self.frames


@dataclass(frozen=True, kw_only=True)
class ForegroundRow:
    """Frames of one kind without cells, for a pipeline that finds foreground."""

    pipeline: str
    kind: str
    frames: int
    share: float
    """Mean share of pixels that are called foreground."""
    largest_share: float


@dataclass(frozen=True, kw_only=True)
class DoubledRow:
    """Cells found in all whole scenes."""

    pipeline: str
    cells: int
    doubled: float
    """Share of them that are one of two for the same cell; NaN if there is none."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """Number of frames that are measured."""

    sizes: Mapping[int, int]
    """Number of training fields per scene -> number of scenes of that size."""
    offset_scenes: int = 2
    offset_side: int = 2048
    """Side in pixels of the scenes that are shifted."""
    factor_scenes: int = 4
    factor_side: int = 1280
    """Side in pixels of the scenes before they are resized."""
    empty: int = 200
    """Number of frames without cells, windows of real background included."""


@dataclass(frozen=True, kw_only=True)
class FieldsResult(Result):
    """Whether answers hold for any size, place and scale of a frame, and for empty ones."""

    load: Load
    thresholds: Mapping[str, float]
    """Pipeline -> score threshold."""
    sizes: tuple[SizeRow, ...]
    doubled: tuple[DoubledRow, ...]
    offsets: tuple[OffsetRow, ...]
    factors: tuple[FactorRow, ...]
    empty: tuple[EmptyRow, ...]
    foreground: tuple[ForegroundRow, ...]


BOUNDS: tuple[Bound[FieldsResult], ...] = (
    Bound(
        "Size of a frame",
        "the worst of recall, precision, F1, AP50 and PQ: a frame of 1 to 36 training fields / the "
        "same frame cut into fields",
        ">=",
        0.97,
        lambda r: ((f"{row.pipeline}, {row.fields}", row.least_ratio) for row in r.sizes),
    ),
    Bound(
        "Doubled cells",
        "cells that are one of two for the same cell / cells found",
        "<=",
        0.005,
        lambda r: ((row.pipeline, row.doubled) for row in r.doubled),
    ),
    Bound(
        "Place of a frame",
        "cells found at an offset of some pixels - their mean / the mean",
        "<=",
        0.01,
        lambda r: ((f"{row.pipeline}, {row.offset}", row.deviation) for row in r.offsets),
    ),
    Bound(
        "Scale of a frame",
        "F1 at the training's scale - F1 of the same frames resized, where their scale is told",
        "<=",
        0.03,
        lambda r: ((f"{row.pipeline}, {row.told}, {row.factor}", row.drop) for row in r.factors),
    ),
    Bound(
        "Empty frames",
        "cells found / frames without a cell",
        "<=",
        0.05,
        lambda r: ((row.pipeline, row.per_frame) for row in r.empty if row.kind == ALL),
    ),
    Bound(
        "Empty frames, foreground",
        "pixels called foreground / pixels of frames without a cell",
        "<=",
        0.001,
        lambda r: ((row.pipeline, row.share) for row in r.foreground if row.kind == ALL),
    ),
)
"""Bounds on answers for any size, place and scale of a frame."""


def fields_page(result: FieldsResult) -> str:
    """Return bounds, tables and notes; a question without rows has no table."""
    verdicts = [v for v in judge(BOUNDS, result) if v.measured is not None]
    lines = [verdicts_table(verdicts), ""]
    for rows, question, table in (
        (
            result.sizes,
            "**Size of the frame.** Scenes of 1 to 36 training fields sent whole; in brackets the "
            "ratio to the same scenes cut into fields.",
            _sizes(result.sizes),
        ),
        (
            result.doubled,
            "**Seams.** Cells of the whole scenes that are one of two for the same cell.",
            _doubled(result.doubled),
        ),
        (
            result.offsets,
            "**Place of the frame.** The same cells seen by a camera that was moved by some "
            "pixels.",
            _offsets(result.offsets),
        ),
        (
            result.factors,
            "**Scale of the frame.** Resized frames, by what the caller tells of their scale; the "
            "drop of F1 is against the frames as they were rendered.",
            _factors(result.factors),
        ),
        (
            result.empty,
            "**Frames without cells.** What is found in them all the same.",
            _empty(result.empty),
        ),
        (
            result.foreground,
            "**Frames without cells, semantic pipelines.** Share of their pixels that is called "
            "foreground.",
            _foreground(result.foreground),
        ),
    ):
        lines += [question, "", table, ""] if rows else []
    thresholds = ", ".join(f"`{name}` {value:g}" for name, value in result.thresholds.items())
    note = "Cells are matched at mask IoU 0.5, whatever their class. Score thresholds: "
    lines += [f"{note}{thresholds}." if thresholds else "", "", machine_note(result.machine), ""]
    return "\n".join(lines)


TITLES = {
    "recall": "recall",
    "precision": "precision",
    "f1": "F1",
    "ap50": "AP50",
    "panoptic_quality": "PQ",
}
"""Field of `Figures` -> its title."""


def _sizes(rows: Sequence[SizeRow]) -> str:
    def compared(name: str) -> Callable[[SizeRow], str]:
        return lambda row: f"{getattr(row.whole, name):.3f} ({row.ratios[name]:.3f})"

    return table_of(
        rows,
        {
            "pipeline": lambda row: f"`{row.pipeline}`",
            "fields": lambda row: f"{row.fields}",
            "frame, px": lambda row: f"{row.width} x {row.height}",
            "scenes": lambda row: f"{row.scenes}",
            "cells": lambda row: f"{row.cells}",
            **{title: compared(name) for name, title in TITLES.items()},
            "least ratio": lambda row: f"{row.least_ratio:.3f}",
        },
    )


def _doubled(rows: Sequence[DoubledRow]) -> str:
    return table_of(
        rows,
        {
            "pipeline": lambda row: f"`{row.pipeline}`",
            "cells": lambda row: f"{row.cells}",
            "doubled": lambda row: f"{row.doubled:.2%}",
        },
    )


def _offsets(rows: Sequence[OffsetRow]) -> str:
    return table_of(
        rows,
        {
            "pipeline": lambda row: f"`{row.pipeline}`",
            "offset (x, y), px": lambda row: row.offset,
            "cells found": lambda row: f"{row.found}",
            "from the mean": lambda row: f"{row.deviation:.2%}",
        },
    )


def _factors(rows: Sequence[FactorRow]) -> str:
    def figure(name: str) -> Callable[[FactorRow], str]:
        return lambda row: f"{getattr(row.figures, name):.3f}"

    return table_of(
        rows,
        {
            "pipeline": lambda row: f"`{row.pipeline}`",
            "told": lambda row: row.told,
            "resized by": lambda row: f"{row.factor:g}",
            **{title: figure(name) for name, title in TITLES.items()},
            "drop of F1": lambda row: "" if row.drop is None else f"{row.drop:.3f}",
        },
    )


def _empty(rows: Sequence[EmptyRow]) -> str:
    return table_of(
        rows,
        {
            "pipeline": lambda row: f"`{row.pipeline}`",
            "kind": lambda row: row.kind,
            "frames": lambda row: f"{row.frames}",
            "false cells": lambda row: f"{row.false_cells}",
            "per frame": lambda row: f"{row.per_frame:.3f}",
            "frames with cells": lambda row: f"{row.frames_with_cells}",
        },
    )


def _foreground(rows: Sequence[ForegroundRow]) -> str:
    return table_of(
        rows,
        {
            "pipeline": lambda row: f"`{row.pipeline}`",
            "kind": lambda row: row.kind,
            "frames": lambda row: f"{row.frames}",
            "mean share": lambda row: f"{row.share:.3%}",
            "largest share": lambda row: f"{row.largest_share:.3%}",
        },
    )
