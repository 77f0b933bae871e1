"""The result of `benchmarks.peers`: its figures, bounds and page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.harness.bounds import Bound, Figures
from benchmarks.harness.load import USUAL_CELLS
from benchmarks.harness.results import FrameRow, Result, machine_note, table_of
from cytoserve.contract import OPENVINO

OURS = "cytoserve"
"""Name of this server among the contenders."""


def served_name(variant: str) -> str:
    """Return the name of this server with a variant of its model repository."""
    return f"{OURS} {variant}"


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far a contender's cells agree with the server's."""

    found: int
    """Number of cells that the contender found."""
    unmatched: int
    """Number of cells of either side without a cell of the other whose box overlaps enough, see
    `benchmarks.peers.same_answers`."""
    box_deviation: float
    """Largest difference of a cell's boxes' sides in frame pixels: median over cells that both
    found."""
    outline_iou: float
    """Mean IoU of the outlines of cells that both found."""
    other_class: int
    """Number of cells that both found with different classes."""


@dataclass(frozen=True, kw_only=True)
class PeerRow(FrameRow, Agreement):
    """A contender on one kind of frame."""

    way: str
    """Name of the contender."""
    seconds: float
    """Median seconds per frame of one client."""
    frames_per_second: float
    """Frames per second of all clients together."""
    seconds_ratio: float
    """seconds / the server's."""
    throughput_ratio: float
    """The server's frames_per_second / its."""
    times_the_study: float | None = None
    """The reference implementation's seconds / its; None if that was not measured."""


@dataclass(frozen=True, kw_only=True)
class WayRow:
    """A contender that was measured."""

    way: str
    title: str
    version: str
    """Version of its package; "" for this project's own."""


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A contender that is not installed."""

    way: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class PeersResult(Result):
    """This server and what people use instead."""

    clients: int
    """Clients that ask at once."""
    repeats: int
    """Timed frames of one client."""
    requests: int
    """Frames of each client in a burst."""
    bursts: int
    ways: tuple[WayRow, ...]
    left_out: tuple[LeftOut, ...]
    frames: tuple[PeerRow, ...]


def _times_the_study(way: str) -> Callable[[PeersResult], Figures]:
    wanted = (way, "yolo_resnet", USUAL_CELLS)
    return lambda result: (
        ("", row.times_the_study)
        for row in result.frames
        if (row.way, row.pipeline, row.cells) == wanted
    )


BOUNDS: tuple[Bound[PeersResult], ...] = tuple(
    Bound(
        f"Speed, 15 rendered cells{title}",
        "the study's way in a process of its own / `yolo_resnet` served",
        ">=",
        4,
        _times_the_study(way),
    )
    for way, title in {OURS: "", served_name(OPENVINO.name): ", variant `openvino`"}.items()
)


def peers_page(result: PeersResult) -> str:
    """Return the page of a result."""
    table = table_of(
        result.frames,
        {
            "pipeline": lambda row: f"`{row.pipeline}`",
            "frame": lambda row: f"{row.width} x {row.height}",
            "cells": lambda row: f"{row.cells}",
            "way": lambda row: row.way,
            "found": lambda row: f"{row.found}",
            "unmatched": lambda row: f"{row.unmatched}",
            "outline IoU": lambda row: f"{row.outline_iou:.3f}",
            "other class": lambda row: f"{row.other_class}",
            "s a frame": lambda row: f"{row.seconds:.3f}",
            "x the server's": lambda row: f"{row.seconds_ratio:.2f}",
            f"frames/s, {result.clients} clients": lambda row: f"{row.frames_per_second:.2f}",
            "server's / its": lambda row: f"{row.throughput_ratio:.2f}",
        },
    )
    contenders = [
        f"- {way.way}{' ' * bool(way.version)}{way.version}: {way.title}." for way in result.ways
    ]
    missing = [f"- {each.reason}" for each in result.left_out]
    notes = [
        f"Seconds are the median of {result.repeats} frames of one client; frames per second "
        f"those of {result.clients} clients that send {result.requests} frames each, the median "
        f"of {result.bursts} bursts. Found, unmatched, IoU and classes are against the server's "
        "cells.",
        f"`{result.command}`",
        machine_note(result.machine),
    ]
    return "\n".join([table, "", *contenders, *missing, "", *(f"{note}\n" for note in notes)])
