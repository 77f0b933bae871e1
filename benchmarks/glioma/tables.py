"""Results of study S2's protocol in the form of its tables, the study's figures beside ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.harness.foregrounds import speed_table
from benchmarks.harness.results import machine_note, training_text
from benchmarks.published import S2_LEARNING_CURVE

ABSENT = "-"


def protocol_page(result: dict[str, Any]) -> str:
    """All tables, from the result of `benchmarks.glioma.protocol`."""
    parts = [scores_table(table) for table in result["tables"]]
    if result["learning_curve"]:
        parts.append(learning_curve_table(result["learning_curve"]))
    if result["zero_shot"]["rows"]:
        parts.append(scores_table(result["zero_shot"]))
    return "\n".join([*parts, *(f"{note}\n" for note in _notes(result))])


def scores_table(table: dict[str, Any]) -> str:
    """DiceScore^AV of models: one of tables 1 to 5, rows of one's own, or the zero-shot test."""
    columns = "".join(f" DiceScore^AV({test}) | study |" for test in table["tests"])
    rows = [
        f"### {table['title']}",
        "",
        f"| model | initialisation | training |{columns}",
        "|---|---|---|" + "---|---|" * len(table["tests"]),
    ]
    for row in table["rows"]:
        study = row["study"] or [ABSENT] * len(table["tests"])
        cells = "".join(
            f" {average_text(score)} | {figure} |"
            for score, figure in zip(row["scores"], study, strict=True)
        )
        rows.append(f"| {row['network']} | {row['init']} | {row['training']} |{cells}")
    return "\n".join([*rows, ""])


def learning_curve_table(curve: Sequence[dict[str, Any]]) -> str:
    """DiceLoss^AV = 1 - DiceScore^AV by the number of training images."""
    rows = [
        "### Learning curve",
        "",
        "| model | R1, R2 | training images | DiceLoss^AV(R1, R2) | study, about |",
        "|---|---|---|---|---|",
    ]
    rows += [
        f"| {row['model']} | {row['test']} | {row['images']} | {average_text(row['loss'])} "
        f"| {S2_LEARNING_CURVE.get(row['images'], ABSENT)} |"
        for row in curve
    ]
    return "\n".join([*rows, ""])


def average_text(score: dict[str, Any] | None) -> str:
    """Mean and, of several splits, standard deviation over them."""
    if score is None:
        return ABSENT
    spread = "" if score["spread"] is None else f" ± {score['spread']:.3f}"
    return f"{score['mean']:.3f}{spread}"


def _notes(result: dict[str, Any]) -> list[str]:
    shown = ", ".join(f"{name} = {size}" for name, size in result["resolutions"].items())
    notes = [
        f"K = {result['splits']} random splits {result['sizes']} of {result['frames']} frames "
        "(training/validation/test); mean over test images and splits ± standard deviation of the "
        "splits' means. DiceScore^AV(R1, R2): predicted at R1, compared at R2. The study: K = 10, "
        "15/5/10 of 30 images of Glioma C6.",
        f"Resolutions of this run: {shown}. {result['epochs']} epochs at most.",
    ]
    if result["left_out"]:
        notes.append(
            "Not trained, for want of initial weights (`--pretrained NAME=DIR`): "
            + "; ".join(result["left_out"])
            + "."
        )
    return [*notes, machine_note(result["machine"])]


def _size_text(resize_to: Sequence[int] | None) -> str:
    return "as they are" if resize_to is None else "resized to {}x{} pixels".format(*resize_to)


def served_page(result: dict[str, Any]) -> str:
    """Quality, speed and memory through the server, from `benchmarks.glioma.served`."""
    quality = ["| field | foreground | Dice | IoU |", "|---|---|---|---|"]
    quality += [
        f"| {frame['name']} | {frame['foreground']:.3f} | {frame['dice']:.3f} "
        f"| {frame['iou']:.3f} |"
        for frame in result["frames"]
    ]
    quality.append(f"| mean | | {result['dice']:.3f} | {result['iou']:.3f} |")
    memory = ["| frame | size | server memory, peak MB |", "|---|---|---|"]
    memory += [
        f"| {row['resolution']} | {row['width']}x{row['height']}x3 "
        f"| {row['peak_bytes'] / 1e6:.0f} |"
        for row in result["memory"]["frames"]
    ]
    notes = [
        f"`{result['pipeline']}`: {training_text(result['recipe'])}. Fields that it was not "
        f"trained on, whole, through the server, which shows them to the network "
        f"{_size_text(result['resize_to'])}.",
        f"Seconds are medians over {', '.join(result['timed_frames'])}, {result['repeats']} rounds "
        "in turn, end to end. Before its first frame the server held "
        f"{result['memory']['before_bytes'] / 1e6:.0f} MB.",
        machine_note(result["machine"]),
    ]
    parts = [*quality, "", *speed_table(result["speed"]), "", *memory, ""]
    return "\n".join([*parts, *(f"{note}\n" for note in notes)])
