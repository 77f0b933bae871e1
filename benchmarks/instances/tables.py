"""The result of `benchmarks.instances` as Markdown tables, study S4's figures beside ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.harness.options import score_threshold_text
from benchmarks.harness.results import machine_note
from benchmarks.published import S4

NAMES = {"maskrcnn": "Mask R-CNN", "maskrcnn_sam": "SAM"}
"""Pipelines of the study -> its names."""

ABSENT = "-"
"""Printed for a figure that a result of an earlier version lacks."""


def instances_page(result: Mapping[str, Any]) -> str:
    """All tables of a result."""
    return "\n".join(
        [
            *quality_table(result),
            "",
            *speed_table(result),
            "",
            *steps_table(result["steps"]),
            "",
            *prompts_table(result),
            "",
            *memory_table(result["memory"]),
            "",
            *(f"{note}\n" for note in notes(result)),
        ]
    )


def quality_table(result: Mapping[str, Any]) -> list[str]:
    """The study's table and usual figures: ours, and the study's two data sets beside."""
    ours = result["pipelines"]
    one, other = NAMES
    both = " / ".join(NAMES.values())

    def pair(values: Mapping[str, float], digits: int) -> str:
        return f"{values[one]:.{digits}f} / {values[other]:.{digits}f}"

    def usual(title: str, name: str) -> str:
        known = name in ours[one] and name in ours[other]
        value = pair(figure(name), 3) if known else ABSENT
        return row(f"{title} {both}", value, [""] * len(S4))

    def row(title: str, value: str, studies: Sequence[str]) -> str:
        return f"| {' | '.join([title, value, *studies])} |"

    def figure(name: str) -> dict[str, float]:
        return {pipeline: ours[pipeline][name] for pipeline in NAMES}

    at_half = {name: ours[name]["average_precision"]["0.50"] for name in NAMES}
    return [
        row("", "here", [f"study: {name}" for name in S4]),
        "|---" * (2 + len(S4)) + "|",
        row(
            "cells per image, truth",
            f"{ours[one]['annotated']:.1f}",
            [f"{study.annotated:g}" for study in S4.values()],
        ),
        row(
            f"found by {both}",
            pair(figure("found"), 1),
            [f"{study.found:g}" for study in S4.values()],
        ),
        row(
            f"confidence {both}",
            pair(figure("confidence"), 3),
            [pair(study.confidence, 3) for study in S4.values()],
        ),
        row(
            f"mAP {both}",
            pair(figure("mean_average_precision"), 3),
            [pair(study.mean_average_precision, 3) for study in S4.values()],
        ),
        row(f"AP50 (11 recalls) {both}", pair(at_half, 3), [""] * len(S4)),
        usual("AP50 (COCO)", "ap50"),
        usual("recall", "recall"),
        usual("precision", "precision"),
        usual("F1", "f1"),
        usual("PQ", "panoptic_quality"),
    ]


def speed_table(result: Mapping[str, Any]) -> list[str]:
    """End-to-end seconds of both pipelines and what they are compared with."""
    lines = [
        "| pipeline | served s | in process s | overhead | the study's way s | speedup |",
        "|---|---|---|---|---|---|",
    ]
    for name in NAMES:
        served, graphs, study = (
            result["seconds"][way][name] for way in ("served", "in_process", "study_way")
        )
        lines.append(
            f"| `{name}` | {served:.3f} | {graphs:.3f} | {result['overhead'][name]:.2f} "
            f"| {study:.3f} | {result['speedup'][name]:.2f} |"
        )
    return lines


def steps_table(steps: Mapping[str, Any]) -> list[str]:
    """Seconds inside the server of a request to `maskrcnn_sam`."""
    return [
        "| step of `maskrcnn_sam` | s |",
        "|---|---|",
        *(f"| `{name}` | {seconds:.3f} |" for name, seconds in steps["steps"].items()),
        f"| all steps, added up | {steps['sum']:.3f} |",
        f"| the request, from arrival to answer | {steps['total']:.3f} |",
        f"| Mask R-CNN and SAM's encoder at the same time, at least | {steps['together']:.3f} |",
        f"| the longer of the two, and the decoder | {steps['longest_and_decoder']:.3f} |",
    ]


def prompts_table(result: Mapping[str, Any]) -> list[str]:
    """SAM's masks of true boxes, and what prompts cost."""
    quality, cost = result["box_prompts"], result["prompt_cost"]
    return [
        "| `sam_prompt`, given the boxes of annotated cells | |",
        "|---|---|",
        f"| mean mask IoU | {quality['iou']:.3f} |",
        f"| share with IoU >= 0.5 | {quality['above_half']:.3f} |",
        f"| mean IoU of the filled boxes | {quality['box_iou']:.3f} |",
        f"| mean quality that SAM predicts | {quality['quality']:.3f} |",
        f"| cells | {quality['cells']} |",
        f"| first prompt on a new frame, s | {cost['first']:.3f} |",
        f"| second prompt on it, s | {cost['second']:.3f} |",
        f"| second / first | {cost['second_share']:.3f} |",
        f"| {cost['prompts']} boxes in one request, s | {cost['together']:.3f} |",
        f"| {cost['prompts']} requests of one box, s | {cost['one_by_one']:.3f} |",
        f"| one request / {cost['prompts']} requests | {cost['together_share']:.3f} |",
        f"| {cost['prompts']} boxes in one run of the decoder in process, s "
        f"| {cost['decoder_together']:.3f} |",
        f"| {cost['prompts']} runs of one box, s | {cost['decoder_one_by_one']:.3f} |",
        f"| one run / {cost['prompts']} runs | {cost['decoder_share']:.3f} |",
        f"| one request / {cost['prompts']} runs in process | {cost['served_share']:.3f} |",
    ]


def memory_table(requests: Sequence[Mapping[str, Any]]) -> list[str]:
    """Memory of single requests, in their order."""
    return [
        "| request | frame, px | client and server, peak MB | above before MB |",
        "|---|---|---|---|",
        *(
            f"| {figure['request']} | {figure['side']} x {figure['side']} "
            f"| {figure['peak_bytes'] / 1e6:.0f} | {figure['added_bytes'] / 1e6:.0f} |"
            for figure in requests
        ),
    ]


def notes(result: Mapping[str, Any]) -> list[str]:
    """What the tables are of."""
    return [
        f"{len(result['frames'])} frames, classes {', '.join(result['class_names'])}, SAM of size "
        f"{result['sam_size']} (the study's: ViT-H). Cells of Mask R-CNN scored "
        f"{score_threshold_text(result['score_threshold'])} or more; of two of which one covers "
        f"more than {result['overlap_threshold']:g} of the smaller one's mask one (the study's "
        "way: of two boxes with so large an IoU). mAP over IoU 0.50:0.05:0.95, 11-point "
        "interpolation, all frames together. COCO's AP50 reads precision at 101 recalls. Recall, "
        "precision, F1 and PQ (panoptic quality) are of cells matched at mask IoU >= 0.5, "
        "whatever their class.",
        f"Seconds are medians over {', '.join(result['timed_frames'])}, {result['repeats']} rounds "
        "in turn, end to end; the server saw another frame each time, so that nothing came from "
        "its response cache. The study's way is torchvision, then `SamPredictor` box by box, on "
        "the same weights. Those of the steps are from the server's statistics. Prompts were "
        f"timed on {result['prompted_frame']}.",
        "Memory is that of this process, launcher, Triton and workers, the requests in the "
        "table's order; the first ones also pay for what the server then keeps.",
        machine_note(result["machine"]),
    ]
