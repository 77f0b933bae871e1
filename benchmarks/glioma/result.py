"""Results of study S2: those of its protocol, and of a network through the server; their pages."""

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
    training_text,
)
from benchmarks.harness.timing import Speed, speed_table

# -- The protocol ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Average:
    """DiceScore^AV of a model."""

    mean: float
    """Mean over all test images and splits."""
    spread: float | None
    """Sample standard deviation of the splits' means (K - 1); None for a single split."""
    splits: tuple[float, ...]
    """Mean over the test images of each split."""

    @property
    def text(self) -> str:
        """The mean and, of several splits, the standard deviation over them."""
        spread = "" if self.spread is None else f" ± {self.spread:.3f}"
        return f"{self.mean:.3f}{spread}"


@dataclass(frozen=True, kw_only=True)
class ModelRow:
    """A model of a table."""

    network: str
    init: str
    """Initial weights."""
    training: str
    scores: tuple[Average | None, ...]
    """A score per test; None if the model could not be trained."""
    study: tuple[str, ...] | None
    """The study's figure for every test, as printed; None in a table of one's own."""

    @property
    def cells(self) -> list[str]:
        """Our score and the study's figure for every test, as text."""
        study = self.study or [ABSENT] * len(self.scores)
        ours = [score.text if score else ABSENT for score in self.scores]
        return [text for pair in zip(ours, study, strict=True) for text in pair]


@dataclass(frozen=True, kw_only=True)
class ScoresTable:
    """One of the study's tables, or one's own."""

    title: str
    tests: tuple[str, ...]
    """``R1, R2`` each: predicted at R1, compared with the truth at R2."""
    rows: tuple[ModelRow, ...]


@dataclass(frozen=True, kw_only=True)
class GliomaProtocolResult(Result):
    """Tables of study S2."""

    tables: tuple[ScoresTable, ...]
    left_out: tuple[str, ...]
    """Models without initial weights."""
    splits: int
    sizes: str
    """Training/validation/test images."""
    frames: int
    epochs: int
    resolutions: Mapping[str, str]
    """Name -> size in pixels."""


def protocol_page(result: GliomaProtocolResult) -> str:
    """Return all tables and notes."""
    parts = [scores_table(table) for table in result.tables]
    shown = ", ".join(f"{name} = {size}" for name, size in result.resolutions.items())
    notes = [
        f"K = {result.splits} random splits {result.sizes} of {result.frames} frames "
        "(training/validation/test); mean over test images and splits ± standard deviation of the "
        "splits' means. DiceScore^AV(R1, R2): predicted at R1, compared at R2. The study: K = 10, "
        "15/5/10 of 30 images of Glioma C6.",
        f"Resolutions of this run: {shown}. {result.epochs} epochs at most.",
    ]
    if result.left_out:
        notes.append(
            "Not trained, for want of initial weights (`--pretrained NAME=DIR`): "
            + "; ".join(result.left_out)
            + "."
        )
    notes.append(machine_note(result.machine))
    return "\n".join([*parts, *(f"{note}\n" for note in notes)])


def scores_table(table: ScoresTable) -> str:
    """Return DiceScore^AV of models: one of tables 1 to 5, or a table of one's own."""

    heads = ["model", "initialisation", "training"]
    for test in table.tests:
        heads += [f"DiceScore^AV({test})", "study"]
    rows = [[row.network, row.init, row.training, *row.cells] for row in table.rows]
    return f"### {table.title}\n\n{markdown_table(heads, rows)}\n"


# -- Through the server ---------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class FrameDice:
    """The server's mask of one frame."""

    name: str
    height: int
    width: int
    dice: float
    iou: float
    foreground: float
    """Share of the frame's pixels that are annotated."""


@dataclass(frozen=True, kw_only=True)
class GliomaResult(Result):
    """A whole-frame U-Net through the server."""

    pipeline: str
    resize_to: tuple[int, int] | None
    """(width, height) of the frames that the network sees; None: as they are."""
    recipe: Mapping[str, Any]
    """Recipe of its checkpoint."""
    frames: tuple[FrameDice, ...]
    dice: float
    """Mean over frames."""
    iou: float
    speed: Speed
    timed_frames: tuple[str, ...]
    repeats: int


BOUNDS: tuple[Bound[GliomaResult], ...] = (
    Bound(
        "Dice, glioma cells",
        "T98G fields that were not trained on, through `glioma_unet`",
        ">=",
        0.8,
        lambda r: [("", r.dice)],
    ),
)
"""Bounds on T98G cells, see `benchmarks.t98g`."""


def served_page(result: GliomaResult) -> str:
    """Return quality and speed through the server, from `benchmarks.glioma.served`."""
    quality = markdown_table(
        ["field", "foreground", "Dice", "IoU"],
        [
            *(
                [f.name, f"{f.foreground:.3f}", f"{f.dice:.3f}", f"{f.iou:.3f}"]
                for f in result.frames
            ),
            ["mean", "", f"{result.dice:.3f}", f"{result.iou:.3f}"],
        ],
    )
    size = result.resize_to
    shown = "as they are" if size is None else "resized to {}x{} pixels".format(*size)
    notes = [
        f"`{result.pipeline}`: {training_text(result.recipe)}. Fields that it was not "
        f"trained on, whole, through the server, which shows them to the network {shown}.",
        f"Seconds are medians over {', '.join(result.timed_frames)}, {result.repeats} rounds "
        "in turn, end to end. The study's way is PyTorch in eager mode.",
        machine_note(result.machine),
    ]
    parts = [quality, "", speed_table({result.pipeline: result.speed}), ""]
    return "\n".join([*parts, *(f"{note}\n" for note in notes)])
