"""The result of `benchmarks.scaling` as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.harness.markdown import markdown_table
from benchmarks.harness.results import machine_note

Result = Mapping[str, Any]


def scaling_table(result: Result) -> str:
    """Return all tables: slopes and ratios first, then the points that the lines go through."""
    sections = [
        "What one more costs, as the slope of a least-squares line.",
        markdown_table(
            ["pipeline", "one more", "costs", "line at 0", "r²", "points"],
            map(_slope, result["slopes"]),
        ),
        *_classifier(result),
        "Memory with the most cells of which half or more were found, above the server's before "
        "the first frame, against one mask of the frame's size for every cell found.",
        markdown_table(
            ["pipeline", "frame", "cells", "found", "peak MB", "such masks MB", "share"],
            map(_memory, result["memory"]),
        ),
        "Frames. Peak memory is that of the first request, above the server's before all frames; "
        "of frames that are smaller than an earlier one it is not told.",
        markdown_table(
            ["pipeline", "frame", "cells", "found", "requests", "p50 ms", "peak MB"],
            map(_frame, result["frames"]),
        ),
        "Clients that ask at once, each with one frame at a time. Memory is above that after one "
        "request.",
        markdown_table(
            [
                *("pipeline", "frame", "cells", "clients", "requests"),
                *("p50 ms", "frames per s", "peak MB"),
            ],
            map(_clients, result["clients"]),
        ),
        "Pipelines loaded, each server with those of the rows above as well.",
        markdown_table(
            ["pipelines", "with", "start s", "memory MB"], map(_loaded, result["loaded"])
        ),
        machine_note(result["machine"]),
    ]
    return "\n\n".join(sections) + "\n"


def _slope(row: Result) -> list[str]:
    unit, _, thing = row["unit"].partition(" per ")
    return [
        *(f"`{row['pipeline']}`", thing, f"{row['slope']:.3g} {unit}"),
        *(f"{row['intercept']:.3g} {unit}", f"{row['r_squared']:.3f}", f"{row['points']}"),
    ]


def _classifier(result: Result) -> list[str]:
    if not result["classified"]:
        return []
    cost = result["classifier"]
    return [
        f"A further cell costs `yolo_resnet` {cost['yolo_resnet_ms_per_cell']:.3g} ms and `yolo` "
        f"{cost['yolo_ms_per_cell']:.3g} ms; the classifier alone takes "
        f"{cost['classifier_ms_per_crop']:.3g} ms for a crop. The difference is "
        f"**{cost['ratio']:.2f} times** that. In turn:",
        markdown_table(
            [
                *("frame", "cells", "found by `yolo`", "by `yolo_resnet`", "rounds", "`yolo` ms"),
                *("`yolo_resnet` ms", "`yolo_resnet` / `yolo`", "crops", "classifier ms"),
            ],
            map(_classified, result["classified"]),
        ),
    ]


def _classified(row: Result) -> list[str]:
    return [
        *(f"{row['width']}x{row['height']}", f"{row['cells']}"),
        *(f"{row['found_yolo']}", f"{row['found_yolo_resnet']}", f"{row['requests']}"),
        *(f"{row['yolo_ms']:.1f}", f"{row['yolo_resnet_ms']:.1f}"),
        *(f"{row['cost_of_classes']:.2f}", f"{row['classifier_crops']}"),
        f"{row['classifier_ms']:.1f}",
    ]


def _memory(row: Result) -> list[str]:
    share = "" if row["share"] is None else f"{row['share']:.4f}"
    return [
        *(*_asked(row), f"{row['found']}"),
        *(f"{row['peak_mb']:.0f}", f"{row['masks_mb']:.0f}", share),
    ]


def _frame(row: Result) -> list[str]:
    peak = "" if row["peak_mb"] is None else f"{row['peak_mb']:.0f}"
    return [
        *(*_asked(row), f"{row['found']}"),
        *(f"{row['requests']}", f"{row['p50_ms']:.1f}", peak),
    ]


def _clients(row: Result) -> list[str]:
    return [
        *(*_asked(row), f"{row['clients']}", f"{row['requests']}", f"{row['p50_ms']:.1f}"),
        *(f"{row['frames_per_second']:.2f}", f"{row['peak_mb']:.0f}"),
    ]


def _loaded(row: Result) -> list[str]:
    return [
        *(f"{row['pipelines']}", f"`{row['with']}`"),
        *(f"{row['start_s']:.1f}", f"{row['memory_mb']:.0f}"),
    ]


def _asked(row: Result) -> list[str]:
    """Return pipeline, frame and cells of a row."""
    return [f"`{row['pipeline']}`", f"{row['width']}x{row['height']}", f"{row['cells']}"]
