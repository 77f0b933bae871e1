"""The result of `benchmarks.scaling` as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.harness.results import machine_note

Result = Mapping[str, Any]


def scaling_table(result: Result) -> str:
    """All tables: slopes and ratios first, then what they were drawn through."""
    sections = [
        "What one more costs, as the slope of a least-squares line.",
        _table(
            "pipeline | one more | costs | line at 0 | r² | points", map(_slope, result["slopes"])
        ),
        *_classifier(result),
        "Memory with the most cells of which half or more were found, above the server's before "
        "the first frame, against one mask of the frame's size for every cell found.",
        _table(
            "pipeline | frame | cells | found | peak MB | such masks MB | share",
            map(_memory, result["memory"]),
        ),
        "Frames. Peak memory is that of the first request, above the server's before all frames; "
        "of frames that are smaller than an earlier one it is not told.",
        _table(
            "pipeline | frame | cells | found | requests | p50 ms | peak MB",
            map(_frame, result["frames"]),
        ),
        "Clients that ask at once, each with one frame at a time. Memory is above that after one "
        "request.",
        _table(
            "pipeline | frame | cells | clients | requests | p50 ms | frames per s | peak MB",
            map(_clients, result["clients"]),
        ),
        "Pipelines loaded, each server with those of the rows above as well.",
        _table("pipelines | with | start s | memory MB", map(_loaded, result["loaded"])),
        machine_note(result["machine"]),
    ]
    return "\n\n".join(sections) + "\n"


def _table(head: str, rows: Iterable[str]) -> str:
    columns = head.count("|") + 1
    return "\n".join([f"| {head} |", "|" + "---|" * columns, *(f"| {row} |" for row in rows)])


def _slope(row: Result) -> str:
    unit, _, thing = row["unit"].partition(" per ")
    return (
        f"`{row['pipeline']}` | {thing} | {row['slope']:.3g} {unit} "
        f"| {row['intercept']:.3g} {unit} | {row['r_squared']:.3f} | {row['points']}"
    )


def _classifier(result: Result) -> list[str]:
    if not result["classified"]:
        return []
    cost = result["classifier"]
    return [
        f"A further cell costs `yolo_resnet` {cost['yolo_resnet_ms_per_cell']:.3g} ms and `yolo` "
        f"{cost['yolo_ms_per_cell']:.3g} ms; the classifier alone takes "
        f"{cost['classifier_ms_per_crop']:.3g} ms for a crop. The difference is "
        f"**{cost['ratio']:.2f} times** that. In turn:",
        _table(
            "frame | cells | found by `yolo` | by `yolo_resnet` | rounds | `yolo` ms "
            "| `yolo_resnet` ms | `yolo_resnet` / `yolo` | crops | classifier ms",
            map(_classified, result["classified"]),
        ),
    ]


def _classified(row: Result) -> str:
    return (
        f"{_size(row)} | {row['cells']} | {row['found_yolo']} | {row['found_yolo_resnet']} "
        f"| {row['requests']} | {row['yolo_ms']:.1f} | {row['yolo_resnet_ms']:.1f} "
        f"| {row['cost_of_classes']:.2f} | {row['classifier_crops']} | {row['classifier_ms']:.1f}"
    )


def _memory(row: Result) -> str:
    share = "" if row["share"] is None else f"{row['share']:.4f}"
    return (
        f"`{row['pipeline']}` | {_size(row)} | {row['cells']} | {row['found']} "
        f"| {row['peak_mb']:.0f} | {row['masks_mb']:.0f} | {share}"
    )


def _frame(row: Result) -> str:
    peak = "" if row["peak_mb"] is None else f"{row['peak_mb']:.0f}"
    return (
        f"`{row['pipeline']}` | {_size(row)} | {row['cells']} | {row['found']} | {row['requests']} "
        f"| {row['p50_ms']:.1f} | {peak}"
    )


def _clients(row: Result) -> str:
    return (
        f"`{row['pipeline']}` | {_size(row)} | {row['cells']} | {row['clients']} "
        f"| {row['requests']} | {row['p50_ms']:.1f} | {row['frames_per_second']:.2f} "
        f"| {row['peak_mb']:.0f}"
    )


def _loaded(row: Result) -> str:
    return f"{row['pipelines']} | `{row['with']}` | {row['start_s']:.1f} | {row['memory_mb']:.0f}"


def _size(row: Result) -> str:
    return f"{row['width']}x{row['height']}"
