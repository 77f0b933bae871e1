"""The result of `benchmarks.approaches` as Markdown tables, study S1's figures beside ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.harness.options import score_threshold_text
from benchmarks.harness.results import machine_note
from benchmarks.published import S1

ABSENT = "-"
"""Printed for a figure that a result of an earlier version lacks."""


def approaches_table(result: dict[str, Any]) -> str:
    """The table of study S1 and what it cost, from the result of `benchmarks.approaches`."""
    ours = result["approaches"]
    rows = [
        "| approach | pipeline | IoU | Accuracy | balanced accuracy | recall | precision "
        "| F1 | AP50 | PQ | found a frame | s per frame | study: IoU | Accuracy | s |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, study in S1.items():
        q = ours[name]
        rows.append(
            f"| {study.name} | `{name}` | {q['iou']:.3f} | {q['accuracy']:.3f} "
            f"| {q['balanced_accuracy']:.3f} | {q['recall']:.3f} | {q['precision']:.3f} "
            f"| {_figure(q, 'f1')} | {_figure(q, 'ap50')} | {_figure(q, 'panoptic_quality')} "
            f"| {q['found_per_image']:.1f} | {q['seconds']:.3f} "
            f"| {study.iou:.2f} | {study.accuracy:.2f} | {study.seconds:g} |"
        )
    times = [
        "| pipeline | served s | in process s | overhead | the study's way s | speedup |",
        "|---|---|---|---|---|---|",
    ]
    default = {"seconds": {name: ours[name]["seconds"] for name in S1}, **result}
    for variant, served in {"": default, **result["variants"]}.items():
        suffix = f", variant `{variant}`" if variant else ""
        for name in S1:
            times.append(
                f"| `{name}`{suffix} | {served['seconds'][name]:.3f} "
                f"| {result['in_process'][name]['seconds']:.3f} | {served['overhead'][name]:.2f} "
                f"| {result['baseline'][name]['seconds']:.3f} | {served['speedup'][name]:.2f} |"
            )
    study_cost = S1["yolo_resnet"].seconds / S1["yolo"].seconds
    usual = ""
    if line := result["cost_of_usual_cells"]:
        usual = (
            f", and {line['ratio']:.2f} times where {line['cells']} cells are found, by the "
            "least-squares line through the frames"
        )
    notes = [
        f"{len(result['frames'])} frames, {result['cells_per_image']:.1f} annotated cells a frame, "
        f"classes {', '.join(result['class_names'])}. IoU, recall, precision, F1 and PQ (panoptic "
        "quality) are of cells matched at mask IoU >= 0.5, whatever their class; accuracies are "
        "over matched cells. AP50 is COCO's, the mean over classes, of cells scored "
        f"{score_threshold_text(result['score_threshold'])} or more. Seconds are medians over "
        "frames, end to end, ratios those of each frame's own.",
        f"`yolo_resnet` costs {result['cost_of_classes']:.2f} times `yolo`{usual} (the study: "
        f"{study_cost:.2f} times).",
        machine_note(result["machine"]),
    ]
    return "\n".join([*rows, "", *times, "", *(f"{note}\n" for note in notes)])


def _figure(quality: Mapping[str, float], name: str) -> str:
    return f"{quality[name]:.3f}" if name in quality else ABSENT
