"""The result of `benchmarks.approaches` as Markdown tables, study S1's figures beside ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.harness.markdown import ABSENT, markdown_table
from benchmarks.harness.options import score_threshold_text
from benchmarks.harness.results import machine_note
from benchmarks.published import S1


def approaches_table(result: dict[str, Any]) -> str:
    """Return the tables of quality and of time, from the result of `benchmarks.approaches`."""
    parts = [_quality(result["approaches"]), "", _seconds(result), ""]
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
    return "\n".join([*parts, *(f"{note}\n" for note in notes)])


def _quality(ours: Mapping[str, Mapping[str, float]]) -> str:
    figures = {
        "iou": "IoU",
        "accuracy": "Accuracy",
        "balanced_accuracy": "balanced accuracy",
        "recall": "recall",
        "precision": "precision",
        "f1": "F1",
        "ap50": "AP50",
        "panoptic_quality": "PQ",
    }
    return markdown_table(
        [
            *("approach", "pipeline", *figures.values(), "found a frame", "s per frame"),
            *("study: IoU", "Accuracy", "s"),
        ],
        [
            [
                *(study.name, f"`{name}`"),
                *(f"{ours[name][f]:.3f}" if f in ours[name] else ABSENT for f in figures),
                *(f"{ours[name]['found_per_image']:.1f}", f"{ours[name]['seconds']:.3f}"),
                *(f"{study.iou:.2f}", f"{study.accuracy:.2f}", f"{study.seconds:g}"),
            ]
            for name, study in S1.items()
        ],
    )


def _seconds(result: Mapping[str, Any]) -> str:
    default = {"seconds": {name: result["approaches"][name]["seconds"] for name in S1}, **result}
    return markdown_table(
        ["pipeline", "served s", "in process s", "overhead", "the study's way s", "speedup"],
        [
            [
                f"`{name}`" + (f", variant `{variant}`" if variant else ""),
                f"{served['seconds'][name]:.3f}",
                f"{result['in_process'][name]['seconds']:.3f}",
                f"{served['overhead'][name]:.2f}",
                f"{result['baseline'][name]['seconds']:.3f}",
                f"{served['speedup'][name]:.2f}",
            ]
            for variant, served in {"": default, **result["variants"]}.items()
            for name in S1
        ],
    )
