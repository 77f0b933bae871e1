"""The results of `benchmarks.general`: figures of the shipped networks, and their pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.fields.result import ALL, EmptyRow, ForegroundRow
from benchmarks.harness.results import ABSENT, Result, machine_note, table_of


@dataclass(frozen=True, kw_only=True)
class KindRow:
    """Figures of all test images of one kind, or of several; NaN if there is nothing to measure.

    `training.evaluation` defines them.
    """

    kind: str
    images: int
    annotated: int
    """Annotated cells of all images."""
    found: int
    recall: float
    precision: float
    f1: float
    iou: float
    f1_inside: float
    """F1 without false cells at the edge."""
    f1_told: float
    """F1 where the cells' median diameter is told."""
    dice: float | None
    """Mean Dice of the U-Net; None if it is not served."""
    diameter_px: float | None
    """Median diameter of the annotated cells; None for several kinds."""


@dataclass(frozen=True, kw_only=True)
class GeneralResult(Result):
    """Figures of the general networks on test images and empty frames."""

    threshold: float
    """Score threshold of the card."""
    kinds: tuple[KindRow, ...]
    empty: tuple[EmptyRow, ...]
    foreground: tuple[ForegroundRow, ...]


@dataclass(frozen=True, kw_only=True)
class FineTuningRow:
    """Figures of a network that was fine-tuned, on the test images; `training.evaluation` defines
    them."""

    init: str
    """Weights that training started from."""
    annotated: int
    found: int
    recall: float
    precision: float
    f1: float
    f1_inside: float
    """F1 without false cells at the edge."""
    accuracy: float
    """Share of the matched cells with the right class."""


@dataclass(frozen=True, kw_only=True)
class FineTuningResult(Result):
    """Two networks, trained on the same images for the same time from different weights."""

    minutes: float
    """Minutes of training."""
    trained_on: int
    """Number of images to train on."""
    images: int
    """Number of test images."""
    rows: tuple[FineTuningRow, ...]


def general_page(result: GeneralResult) -> str:
    """Return the figures by kind of image, and those of the empty frames, as Markdown."""
    share = "".join(
        f"Foreground of the U-Net in the empty frames: {row.share:.3%}.\n\n"
        for row in result.foreground
        if row.kind == ALL
    )
    notes = (
        f"Cells scored {result.threshold:g} or more, matched at mask IoU >= 0.5. F1 without the "
        "edge leaves out false cells that touch the edge of the image, which annotators of blood "
        "smears leave out as well."
    )
    return (
        f"{_kinds(result.kinds)}\n\n{_empty(result.empty)}\n\n{share}{notes}\n\n"
        f"{machine_note(result.machine)}\n"
    )


def _figure(name: str) -> Callable[[object], str]:
    """Return the text of a column that holds the figure ``name`` of every row."""
    return lambda row: f"{getattr(row, name):.3f}"


def _kinds(rows: Sequence[KindRow]) -> str:
    return table_of(
        rows,
        {
            "images": lambda row: row.kind,
            "number": lambda row: f"{row.images}",
            "annotated": lambda row: f"{row.annotated}",
            "found": lambda row: f"{row.found}",
            "recall": _figure("recall"),
            "precision": _figure("precision"),
            "F1": _figure("f1"),
            "IoU": _figure("iou"),
            "F1 without the edge": _figure("f1_inside"),
            "F1, diameter told": _figure("f1_told"),
            "median px": lambda row: (
                ABSENT if row.diameter_px is None else f"{row.diameter_px:.0f}"
            ),
            "Dice of the U-Net": lambda row: ABSENT if row.dice is None else f"{row.dice:.3f}",
        },
    )


def _empty(rows: Sequence[EmptyRow]) -> str:
    return table_of(
        rows,
        {
            "empty frames": lambda row: row.kind,
            "number": lambda row: f"{row.frames}",
            "false cells": lambda row: f"{row.false_cells}",
            "per frame": lambda row: f"{row.per_frame:.3f}",
        },
    )


def fine_tuning_page(result: FineTuningResult) -> str:
    """Return the figures of all networks as Markdown."""

    table = table_of(
        result.rows,
        {
            "trained from": lambda row: row.init,
            "annotated": lambda row: f"{row.annotated}",
            "found": lambda row: f"{row.found}",
            "recall": _figure("recall"),
            "precision": _figure("precision"),
            "F1": _figure("f1"),
            "F1 without the edge": _figure("f1_inside"),
            "accuracy of the class": _figure("accuracy"),
        },
    )
    return (
        f"{table}\n\nEach was trained for {result.minutes:g} minutes on {result.trained_on} blood "
        "smears, at the scale that `training.start` chose. The figures are those of "
        f"{result.images} other smears, at the threshold that training chose. Cells are matched at "
        f"mask IoU >= 0.5.\n\n{machine_note(result.machine)}\n"
    )
