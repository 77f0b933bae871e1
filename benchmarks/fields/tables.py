"""The figures of `benchmarks.fields` as Markdown: the bounds, then a table per question."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.bounds import FIELDS, judge, verdicts_table
from benchmarks.fields.pipelines import FIGURES
from benchmarks.harness.markdown import markdown_table
from benchmarks.harness.results import machine_note

Row = Mapping[str, Any]
Columns = Mapping[str, Callable[[Row], str]]
"""Title of a column -> function from a row to its cell."""


def fields_table(result: Mapping[str, Any]) -> str:
    """Return bounds, tables and notes; a question without rows has no table."""
    verdicts = [v for v in judge(FIELDS, {"fields": result}) if v.measured is not None]
    lines = [verdicts_table(verdicts), ""]
    for name, (text, columns) in QUESTIONS.items():
        if rows := result[name]:
            cells = [[cell(row) for cell in columns.values()] for row in rows]
            lines += [text, "", markdown_table(list(columns), cells), ""]
    return "\n".join([*lines, *_notes(result)])


def _notes(result: Mapping[str, Any]) -> list[str]:
    return [
        "Cells are matched at mask IoU 0.5, whatever their class. Score thresholds: "
        + ", ".join(f"`{name}` {value:g}" for name, value in result["thresholds"].items())
        + "."
        if result["thresholds"]
        else "",
        "",
        machine_note(result["machine"]),
        "",
    ]


def _said(name: str, form: str = "") -> Callable[[Row], str]:
    """Return a column that formats a value, with an empty cell for None."""
    return lambda row: "" if row[name] is None else format(row[name], form)


def _compared(name: str) -> Callable[[Row], str]:
    """Return a column of a figure and its ratio to that of the same cells in single fields."""
    return lambda row: f"{row[name]:.3f} ({row[f'ratio_{name}']:.3f})"


PIPELINE: Columns = {"pipeline": lambda row: f"`{row['pipeline']}`"}
QUALITY: Columns = {title: _said(name, ".3f") for name, title in FIGURES.items()}
COMPARED: Columns = {
    **{title: _compared(name) for name, title in FIGURES.items()},
    "least ratio": _said("least_ratio", ".3f"),
}

QUESTIONS: Mapping[str, tuple[str, Columns]] = {
    "sizes": (
        "**Size of the frame.** Scenes of 1 to 36 training fields sent whole; in brackets the "
        "ratio to the same scenes cut into fields.",
        {
            **PIPELINE,
            "fields": _said("fields"),
            "frame, px": lambda row: f"{row['width']} x {row['height']}",
            "scenes": _said("scenes"),
            "cells": _said("cells"),
            **COMPARED,
        },
    ),
    "corners": (
        "**Field in a corner.** Fields in the four corners of a frame of 1280 x 960 pixels; in "
        "brackets the ratio to the same fields alone.",
        {**PIPELINE, "scenes": _said("scenes"), "cells": _said("cells"), **COMPARED},
    ),
    "offsets": (
        "**Place of the frame.** The same cells seen by a camera that was moved by some pixels.",
        {
            **PIPELINE,
            "offset (x, y), px": _said("offset"),
            "cells found": _said("found"),
            "from the mean": _said("deviation", ".2%"),
        },
    ),
    "factors": (
        "**Scale of the frame.** Resized frames, by what the caller tells of their scale; the drop "
        "of F1 is against the frames as they were rendered.",
        {
            **PIPELINE,
            "told": _said("told"),
            "resized by": _said("factor", "g"),
            **QUALITY,
            "drop of F1": _said("drop", ".3f"),
        },
    ),
    "empty": (
        "**Frames without cells.** What is found in them all the same.",
        {
            **PIPELINE,
            "kind": _said("kind"),
            "frames": _said("frames"),
            "false cells": _said("false_cells"),
            "per frame": _said("per_frame", ".3f"),
            "frames with cells": _said("frames_with_cells"),
        },
    ),
    "foreground": (
        "**Frames without cells, semantic pipelines.** Share of their pixels that is called "
        "foreground.",
        {
            **PIPELINE,
            "kind": _said("kind"),
            "frames": _said("frames"),
            "mean share": _said("share", ".3%"),
            "largest share": _said("largest_share", ".3%"),
        },
    ),
    "outlines": (
        "**Outlines.** Of the cells found in the whole scenes; distances are of matched cells of "
        "20 px and more.",
        {
            **PIPELINE,
            "cells": _said("cells"),
            "doubled": _said("doubled", ".2%"),
            "length along its box": _said("along_box", ".2%"),
            "measured": _said("measured"),
            "to the truth, px": _said("to_truth_px", ".2f"),
            "from the truth, px": _said("from_truth_px", ".2f"),
        },
    ),
    "seconds": (
        "**Time.** Medians end to end, each request with another frame.",
        {
            **PIPELINE,
            "side, px": _said("side"),
            "cells": _said("cells"),
            "tiles": _said("tiles"),
            "seconds": _said("seconds", ".3f"),
            "per tile": _said("seconds_per_tile", ".4f"),
        },
    ),
}
"""Name of the rows in a result -> question, and the columns of its table."""
