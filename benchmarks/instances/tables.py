"""The result of `benchmarks.instances` as Markdown tables, study S4's figures beside ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.harness.markdown import ABSENT, markdown_table
from benchmarks.harness.options import score_threshold_text
from benchmarks.harness.results import machine_note
from benchmarks.published import S4

NAMES = {"maskrcnn": "Mask R-CNN", "maskrcnn_sam": "SAM"}
"""Pipeline -> the study's name for its network."""


def instances_page(result: Mapping[str, Any]) -> str:
    """Return all tables of a result."""
    tables = [
        quality_table(result["pipelines"]),
        speed_table(result),
        steps_table(result["steps"]),
        prompts_table(result),
        memory_table(result["memory"]),
    ]
    return "\n\n".join(tables) + "\n\n" + "\n".join(f"{note}\n" for note in notes(result))


def quality_table(ours: Mapping[str, Any]) -> str:
    """Return the study's table and usual figures: ours beside those on the study's data sets."""
    one, other = NAMES
    both = " / ".join(NAMES.values())

    def pair(values: Mapping[str, float], digits: int) -> str:
        return f"{values[one]:.{digits}f} / {values[other]:.{digits}f}"

    def figure(name: str) -> dict[str, float]:
        return {pipeline: ours[pipeline][name] for pipeline in NAMES}

    def usual(title: str, name: str) -> list[str]:
        known = name in ours[one] and name in ours[other]
        value = pair(figure(name), 3) if known else ABSENT
        return [f"{title} {both}", value, *unpublished]

    studies, unpublished = S4.values(), [""] * len(S4)
    at_half = {name: ours[name]["average_precision"]["0.50"] for name in NAMES}
    mean_precision = pair(figure("mean_average_precision"), 3)
    return markdown_table(
        ["", "here", *(f"study: {name}" for name in S4)],
        [
            [
                *("cells per image, truth", f"{ours[one]['annotated']:.1f}"),
                *(f"{study.annotated:g}" for study in studies),
            ],
            [
                *(f"found by {both}", pair(figure("found"), 1)),
                *(f"{study.found:g}" for study in studies),
            ],
            [
                *(f"confidence {both}", pair(figure("confidence"), 3)),
                *(pair(study.confidence, 3) for study in studies),
            ],
            [
                *(f"mAP {both}", mean_precision),
                *(pair(study.mean_average_precision, 3) for study in studies),
            ],
            [f"AP50 (11 recalls) {both}", pair(at_half, 3), *unpublished],
            usual("AP50 (COCO)", "ap50"),
            usual("recall", "recall"),
            usual("precision", "precision"),
            usual("F1", "f1"),
            usual("PQ", "panoptic_quality"),
        ],
    )


def speed_table(result: Mapping[str, Any]) -> str:
    """Return end-to-end seconds of both pipelines beside what they are compared with."""
    seconds = result["seconds"]
    return markdown_table(
        ["pipeline", "served s", "in process s", "overhead", "the study's way s", "speedup"],
        [
            [
                *(f"`{name}`", f"{seconds['served'][name]:.3f}"),
                *(f"{seconds['in_process'][name]:.3f}", f"{result['overhead'][name]:.2f}"),
                *(f"{seconds['study_way'][name]:.3f}", f"{result['speedup'][name]:.2f}"),
            ]
            for name in NAMES
        ],
    )


def steps_table(steps: Mapping[str, Any]) -> str:
    """Return the seconds that a request to `maskrcnn_sam` spends inside the server."""
    seconds = {
        **{f"`{name}`": step for name, step in steps["steps"].items()},
        "all steps, added up": steps["sum"],
        "the request, from arrival to answer": steps["total"],
        "Mask R-CNN and SAM's encoder at the same time, at least": steps["together"],
        "the longer of the two, and the decoder": steps["longest_and_decoder"],
    }
    return markdown_table(
        ["step of `maskrcnn_sam`", "s"],
        [[title, f"{figure:.3f}"] for title, figure in seconds.items()],
    )


def prompts_table(result: Mapping[str, Any]) -> str:
    """Return how good SAM's masks of true boxes are, and what prompts cost."""
    quality, cost = result["box_prompts"], result["prompt_cost"]
    prompts = cost["prompts"]
    figures: dict[str, float] = {
        "mean mask IoU": quality["iou"],
        "share with IoU >= 0.5": quality["above_half"],
        "mean IoU of the filled boxes": quality["box_iou"],
        "mean quality that SAM predicts": quality["quality"],
        "cells": quality["cells"],
        "first prompt on a new frame, s": cost["first"],
        "second prompt on it, s": cost["second"],
        "second / first": cost["second_share"],
        f"{prompts} boxes in one request, s": cost["together"],
        f"{prompts} requests of one box, s": cost["one_by_one"],
        f"one request / {prompts} requests": cost["together_share"],
        f"{prompts} boxes in one run of the decoder in process, s": cost["decoder_together"],
        f"{prompts} runs of one box, s": cost["decoder_one_by_one"],
        f"one run / {prompts} runs": cost["decoder_share"],
        f"one request / {prompts} runs in process": cost["served_share"],
    }
    return markdown_table(
        ["`sam_prompt`, given the boxes of annotated cells", ""],
        [
            [title, f"{figure}" if isinstance(figure, int) else f"{figure:.3f}"]
            for title, figure in figures.items()
        ],
    )


def memory_table(requests: Sequence[Mapping[str, Any]]) -> str:
    """Return the memory of single requests, in their order."""
    return markdown_table(
        ["request", "frame, px", "client and server, peak MB", "above before MB"],
        [
            [
                *(figure["request"], f"{figure['side']} x {figure['side']}"),
                *(f"{figure['peak_bytes'] / 1e6:.0f}", f"{figure['added_bytes'] / 1e6:.0f}"),
            ]
            for figure in requests
        ],
    )


def notes(result: Mapping[str, Any]) -> list[str]:
    """Return what the tables are of, one paragraph each."""
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
