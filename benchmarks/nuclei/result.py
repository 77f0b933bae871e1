"""Results of study S3: those of its protocol, and of a network through the server; their pages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.harness.bounds import Bound
from benchmarks.harness.results import (
    ABSENT,
    Result,
    machine_note,
    markdown_table,
    table_of,
    training_text,
)
from benchmarks.harness.timing import Speed, speed_table
from benchmarks.published import S3, S3_NETWORKS

# -- The protocol ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TileScores:
    """Figures of one network on one part of a set."""

    tiles: int
    dice: float
    """Mean over the tiles; a tile without nuclei counts 1 if none is predicted, else 0."""
    iou: float
    """Mean over the tiles."""
    pixel_dice: float
    """Dice of the pixels of all tiles together, which tiles without nuclei cannot raise."""
    pixel_iou: float


@dataclass(frozen=True, kw_only=True)
class SetRun:
    """One network that was trained and tested on one set of tiles."""

    set: str
    network: str
    train: TileScores
    test: TileScores
    settings: Mapping[str, Any]
    folder: str
    """Folder of the checkpoint."""
    seconds: float | None
    """Seconds of training and testing; None if the run was interrupted in between."""


@dataclass(frozen=True, kw_only=True)
class NucleiProtocolResult(Result):
    """Study S3's table."""

    runs: tuple[SetRun, ...]
    frames: int
    test_cases: tuple[str, ...]
    radius: float
    """Radius of the discs around annotated centres in pixels."""


def protocol_page(result: NucleiProtocolResult) -> str:
    """Return the figures of every set and network."""
    table = table_of(
        result.runs,
        {
            "set": lambda run: run.set,
            "tiles train / test": lambda run: f"{run.train.tiles} / {run.test.tiles}",
            "network": lambda run: run.network,
            "train Dice / IoU": lambda run: f"{run.train.dice:.3f} / {run.train.iou:.3f}",
            "test Dice / IoU": lambda run: f"{run.test.dice:.3f} / {run.test.iou:.3f}",
            "study: test Dice / IoU": lambda run: study_text(run.set, run.network),
            "test Dice / IoU, all pixels": lambda run: (
                f"{run.test.pixel_dice:.3f} / {run.test.pixel_iou:.3f}"
            ),
        },
    )
    return "\n".join([table, "", *(f"{note}\n" for note in _notes(result))])


def study_text(set_name: str, network: str) -> str:
    """Return the study's Dice / IoU of a network on a set, or a dash where it has none."""
    if set_name not in S3 or network not in S3_NETWORKS:
        return ABSENT
    dice, iou = S3[set_name][S3_NETWORKS.index(network)]
    return f"{dice:.3f} / {iou:.3f}"


def _notes(result: NucleiProtocolResult) -> list[str]:
    notes = [
        f"{result.frames} images; tested on {', '.join(result.test_cases)}, which also chose "
        "the epoch, as in the study; discs of radius "
        f"{result.radius:g} px. Dice and IoU are means over tiles, where a tile without nuclei "
        "counts 1 if none is predicted and 0 if any is; then of the pixels of all tiles together. "
        "The study: 80/20 of 162 images of BreCaHAD."
    ]
    for network in sorted({run.network for run in result.runs}):
        runs = [run for run in result.runs if run.network == network]
        ordered = sorted(runs, key=lambda run: -run.test.pixel_dice)
        notes.append(
            f"{network}, sets by test Dice of all pixels, best first: "
            + ", ".join(f"{run.set} ({run.test.pixel_dice:.3f})" for run in ordered)
            + "."
        )
    shown = ", ".join(f"{run.set} {run.settings['epochs']}" for run in result.runs)
    seconds = ", ".join(
        f"{run.set} {run.network} "
        + ("not known, cut off" if run.seconds is None else f"{run.seconds:.0f}")
        for run in result.runs
    )
    notes.append(f"Epochs: {shown}. Seconds of training and testing: {seconds}.")
    return [*notes, machine_note(result.machine)]


# -- Through the server ---------------------------------------------------------------------------

LIMIT = 3
"""Minimum difference of probability, in 1/255, that counts as visible."""


@dataclass(frozen=True, kw_only=True)
class FrameNuclei:
    """The server's answer for one frame."""

    name: str
    case: str
    dice: float
    iou: float
    annotated: int
    """Number of annotated centres."""
    found: int
    matched: int
    """Maximum number of pairs of a found and an annotated centre within the radius, one to one."""


@dataclass(frozen=True, kw_only=True)
class SeamFigures:
    """Differences of probability between two positions of the tile grid."""

    offset: tuple[int, int]
    """(x, y) in pixels."""
    pixels: int
    """Number of compared pixels."""
    below_limit: float
    """Share of them that differ by less than `LIMIT` / 255."""
    largest: int
    """Largest difference in 1/255."""


@dataclass(frozen=True, kw_only=True)
class NucleiResult(Result):
    """The tiled U-Net through the server."""

    recipe: Mapping[str, Any]
    """Recipe of its checkpoint."""
    radius: float
    frames: tuple[FrameNuclei, ...]
    dice: float
    """Mean over frames."""
    iou: float
    seams_frame: str
    """Frame that the seams were measured on."""
    seams: tuple[SeamFigures, ...]
    speed: Speed
    timed_frames: tuple[str, ...]
    repeats: int


def bounds_of(network: str) -> tuple[Bound[NucleiResult], ...]:
    """Return the bounds of one of the study's networks, see `benchmarks.brecahad`."""
    dice, _ = S3["original"][S3_NETWORKS.index(network)]
    return (
        Bound(
            f"Dice, {network}",
            "whole BreCaHAD frames of a case that was not trained on, through `nuclei_unet`; the "
            "study's on original images",
            ">=",
            dice,
            lambda r: [("", r.dice)],
        ),
        Bound(
            f"Seams, {network}",
            "pixels within 3/255 when the grid of tiles is shifted / all",
            ">=",
            0.999,
            lambda r: ((f"{list(seam.offset)}", seam.below_limit) for seam in r.seams),
        ),
        Bound(
            f"Speed, {network}",
            "PyTorch tile by tile / served",
            ">=",
            2,
            lambda r: [("", r.speed.speedup)],
        ),
    )


def served_page(result: NucleiResult) -> str:
    """Return quality, seams and speed through the server, from `benchmarks.nuclei.served`."""
    whole = FrameNuclei(
        name="all",
        case="",
        dice=result.dice,
        iou=result.iou,
        annotated=sum(frame.annotated for frame in result.frames),
        found=sum(frame.found for frame in result.frames),
        matched=sum(frame.matched for frame in result.frames),
    )
    quality = markdown_table(
        ["field", "Dice", "IoU", "nuclei annotated", "found", "recall"],
        map(_quality, (*result.frames, whole)),
    )
    seams = table_of(
        result.seams,
        {
            "grid shifted by (x, y) px": lambda seam: "({}, {})".format(*seam.offset),
            f"pixels that differ by less than {LIMIT}/255": lambda seam: f"{seam.below_limit:.2%}",
            "largest": lambda seam: f"{seam.largest}/255",
        },
    )
    parts = [quality, "", seams, "", speed_table({"nuclei_unet": result.speed}), ""]
    return "\n".join([*parts, *(f"{note}\n" for note in _served_notes(result))])


def _quality(row: FrameNuclei) -> list[str]:
    recall = row.matched / row.annotated if row.annotated else float("nan")
    return [
        *(row.name, f"{row.dice:.3f}", f"{row.iou:.3f}"),
        *(f"{row.annotated}", f"{row.found}", f"{recall:.3f}"),
    ]


def _served_notes(result: NucleiResult) -> list[str]:
    return [
        f"`nuclei_unet`: {training_text(result.recipe)}. Whole frames of cases that were "
        "not trained on, but chose the epoch, through the server: cleaned, tiled, stitched. Dice "
        f"against discs of radius {result.radius:g} px around the annotated centres; a nucleus "
        "is found when a centre "
        "of the server lies within that radius, one to one. Many nuclei of BreCaHAD carry no "
        "point, so found ones without a partner are no errors.",
        f"Seams on {result.seams_frame}, away from its borders. Seconds are medians over "
        f"{', '.join(result.timed_frames)}, {result.repeats} rounds in turn, end to end; "
        "the study's way is PyTorch, tile by tile.",
        machine_note(result.machine),
    ]
