"""The result of `benchmarks.scaling`: its figures, bounds and page."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.harness.bounds import Bound
from benchmarks.harness.results import FrameRow, Result, machine_note, table_of


@dataclass(frozen=True, kw_only=True)
class GrowthRow(FrameRow):
    """One kind of frame, sent to a server that got smaller ones before."""

    megapixels: float
    found: int
    requests: int
    p50_ms: float
    peak_mb: float | None
    """Peak of the server's memory in the first request, above that before all frames. None if the
    frame is smaller than an earlier one, since a server releases little."""


@dataclass(frozen=True, kw_only=True)
class LoadedRow:
    """A server with some pipelines, before any frame."""

    pipelines: int
    added: str
    """Pipeline that this server has beyond the previous one's."""
    start_s: float
    memory_mb: float


@dataclass(frozen=True, kw_only=True)
class MemoryRow(FrameRow):
    """A server's memory with the most cells, against masks of the frame's size."""

    found: int
    peak_mb: float
    masks_mb: float
    """Memory of a mask of the frame's size, one byte per pixel, for every cell found."""
    share: float | None
    """peak_mb / masks_mb; None if no cell was found."""


@dataclass(frozen=True, kw_only=True)
class SlopeRow:
    """Cost of one more megapixel, cell or pipeline: the slope of a least-squares line."""

    pipeline: str
    """Pipeline, or ``all``."""
    unit: str
    """Unit of the slope, such as ``ms per cell``."""
    x: str
    y: str
    slope: float
    intercept: float
    r_squared: float
    points: int


@dataclass(frozen=True, kw_only=True)
class ScalingResult(Result):
    """Growth of time and memory."""

    seconds: float
    """Seconds of requests of one kind."""
    fewest: int
    frames: tuple[GrowthRow, ...]
    loaded: tuple[LoadedRow, ...]
    memory: tuple[MemoryRow, ...]
    slopes: tuple[SlopeRow, ...]


BOUNDS: tuple[Bound[ScalingResult], ...] = (
    Bound(
        "Memory of 2,000 cells at 2048 x 2048",
        "peak of the server / a mask of the frame's size for each cell",
        "<=",
        0.1,
        lambda r: (
            (row.pipeline, row.share)
            for row in r.memory
            if (row.cells, row.size) == (2000, "2048x2048")
        ),
    ),
)


def scaling_page(result: ScalingResult) -> str:
    """Return all tables: slopes and ratios first, then the points that the lines go through."""
    sections = [
        "What one more costs, as the slope of a least-squares line.",
        _slopes_table(result),
        "Memory with the most cells of which half or more were found, above the server's before "
        "the first frame, against one mask of the frame's size for every cell found.",
        table_of(
            result.memory,
            {
                "pipeline": lambda row: f"`{row.pipeline}`",
                "frame": lambda row: row.size,
                "cells": lambda row: f"{row.cells}",
                "found": lambda row: f"{row.found}",
                "peak MB": lambda row: f"{row.peak_mb:.0f}",
                "such masks MB": lambda row: f"{row.masks_mb:.0f}",
                "share": lambda row: "" if row.share is None else f"{row.share:.4f}",
            },
        ),
        "Frames. Peak memory is that of the first request, above the server's before all frames; "
        "of frames that are smaller than an earlier one it is not told.",
        table_of(
            result.frames,
            {
                "pipeline": lambda row: f"`{row.pipeline}`",
                "frame": lambda row: row.size,
                "cells": lambda row: f"{row.cells}",
                "found": lambda row: f"{row.found}",
                "requests": lambda row: f"{row.requests}",
                "p50 ms": lambda row: f"{row.p50_ms:.1f}",
                "peak MB": lambda row: "" if row.peak_mb is None else f"{row.peak_mb:.0f}",
            },
        ),
        "Pipelines loaded, each server with those of the rows above as well.",
        table_of(
            result.loaded,
            {
                "pipelines": lambda row: f"{row.pipelines}",
                "with": lambda row: f"`{row.added}`",
                "start s": lambda row: f"{row.start_s:.1f}",
                "memory MB": lambda row: f"{row.memory_mb:.0f}",
            },
        ),
        machine_note(result.machine),
    ]
    return "\n\n".join(sections) + "\n"


def _slopes_table(result: ScalingResult) -> str:
    return table_of(
        result.slopes,
        {
            "pipeline": lambda row: f"`{row.pipeline}`",
            "one more": lambda row: row.unit.partition(" per ")[2],
            "costs": lambda row: f"{row.slope:.3g} {row.unit.partition(' per ')[0]}",
            "line at 0": lambda row: f"{row.intercept:.3g} {row.unit.partition(' per ')[0]}",
            "r²": lambda row: f"{row.r_squared:.3f}",
            "points": lambda row: f"{row.points}",
        },
    )
