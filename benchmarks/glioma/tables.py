"""Results of study S2's protocol in the form of its tables, the study's figures beside ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.harness.foregrounds import speed_table
from benchmarks.harness.markdown import ABSENT, markdown_table
from benchmarks.harness.results import machine_note, training_text
from benchmarks.published import S2_LEARNING_CURVE


def protocol_page(result: dict[str, Any]) -> str:
    """Return all tables, from the result of `benchmarks.glioma.protocol`."""
    parts = [scores_table(table) for table in result["tables"]]
    if result["learning_curve"]:
        parts.append(learning_curve_table(result["learning_curve"]))
    if result["zero_shot"]["rows"]:
        parts.append(scores_table(result["zero_shot"]))
    return "\n".join([*parts, *(f"{note}\n" for note in _notes(result))])


def scores_table(table: dict[str, Any]) -> str:
    """Return DiceScore^AV of models: one of tables 1 to 5, a table of one's own, or zero-shot."""
    columns = [title for test in table["tests"] for title in (f"DiceScore^AV({test})", "study")]
    rows = [
        [
            *(row["network"], row["init"], row["training"]),
            *(
                cell
                for score, figure in zip(
                    row["scores"], row["study"] or [ABSENT] * len(table["tests"]), strict=True
                )
                for cell in (average_text(score), figure)
            ),
        ]
        for row in table["rows"]
    ]
    scores = markdown_table(["model", "initialisation", "training", *columns], rows)
    return f"### {table['title']}\n\n{scores}\n"


def learning_curve_table(curve: Sequence[dict[str, Any]]) -> str:
    """Return DiceLoss^AV = 1 - DiceScore^AV by the number of training images."""
    losses = markdown_table(
        ["model", "R1, R2", "training images", "DiceLoss^AV(R1, R2)", "study, about"],
        [
            [
                *(row["model"], row["test"], f"{row['images']}", average_text(row["loss"])),
                S2_LEARNING_CURVE.get(row["images"], ABSENT),
            ]
            for row in curve
        ],
    )
    return f"### Learning curve\n\n{losses}\n"


def average_text(score: dict[str, Any] | None) -> str:
    """Return the mean and, of several splits, the standard deviation over them."""
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
    """Return quality, speed and memory through the server, from `benchmarks.glioma.served`."""
    mean = {**result, "name": "mean"}
    quality = markdown_table(
        ["field", "foreground", "Dice", "IoU"],
        [
            [
                frame["name"],
                f"{frame['foreground']:.3f}" if "foreground" in frame else "",
                f"{frame['dice']:.3f}",
                f"{frame['iou']:.3f}",
            ]
            for frame in (*result["frames"], mean)
        ],
    )
    memory = markdown_table(
        ["frame", "size", "server memory, peak MB"],
        [
            [
                *(row["resolution"], f"{row['width']}x{row['height']}x3"),
                f"{row['peak_bytes'] / 1e6:.0f}",
            ]
            for row in result["memory"]["frames"]
        ],
    )
    notes = [
        f"`{result['pipeline']}`: {training_text(result['recipe'])}. Fields that it was not "
        f"trained on, whole, through the server, which shows them to the network "
        f"{_size_text(result['resize_to'])}.",
        f"Seconds are medians over {', '.join(result['timed_frames'])}, {result['repeats']} rounds "
        "in turn, end to end. Before its first frame the server held "
        f"{result['memory']['before_bytes'] / 1e6:.0f} MB.",
        machine_note(result["machine"]),
    ]
    parts = [quality, "", speed_table(result["speed"]), "", memory, ""]
    return "\n".join([*parts, *(f"{note}\n" for note in notes)])
