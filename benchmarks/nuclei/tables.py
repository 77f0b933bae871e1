"""Results of study S3's protocol in the form of its tables, the study's figures beside ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.harness.foregrounds import speed_table
from benchmarks.harness.markdown import ABSENT, markdown_table
from benchmarks.harness.results import machine_note, training_text
from benchmarks.nuclei.measures import LIMIT
from benchmarks.published import S3, S3_NETWORKS


def protocol_page(result: dict[str, Any]) -> str:
    """Return the figures of every set and network, from `benchmarks.nuclei.protocol`."""
    table = markdown_table(
        [
            *("set", "tiles train / test", "network", "train Dice / IoU", "test Dice / IoU"),
            *("study: test Dice / IoU", "test Dice / IoU, all pixels"),
        ],
        [
            [
                run["set"],
                f"{run['train']['tiles']} / {run['test']['tiles']}",
                run["network"],
                *(
                    f"{run[part]['dice']:.3f} / {run[part]['iou']:.3f}"
                    for part in ("train", "test")
                ),
                study_text(run["set"], run["network"]),
                f"{run['test']['pixel_dice']:.3f} / {run['test']['pixel_iou']:.3f}",
            ]
            for run in result["runs"]
        ],
    )
    return "\n".join([table, "", *(f"{note}\n" for note in _notes(result))])


def study_text(set_name: str, network: str) -> str:
    """Return the study's Dice / IoU of a network on a set, or a dash where it has none."""
    if set_name not in S3 or network not in S3_NETWORKS:
        return ABSENT
    dice, iou = S3[set_name][S3_NETWORKS.index(network)]
    return f"{dice:.3f} / {iou:.3f}"


def _notes(result: dict[str, Any]) -> list[str]:
    notes = [
        f"{result['frames']} images; tested on {', '.join(result['test_cases'])}, which also chose "
        "the epoch, as in the study; discs of radius "
        f"{result['radius']:g} px. Dice and IoU are means over tiles, where a tile without nuclei "
        "counts 1 if none is predicted and 0 if any is; then of the pixels of all tiles together. "
        "The study: 80/20 of 162 images of BreCaHAD."
    ]
    for network in sorted({run["network"] for run in result["runs"]}):
        runs = [run for run in result["runs"] if run["network"] == network]
        ordered = sorted(runs, key=lambda run: -run["test"]["pixel_dice"])
        notes.append(
            f"{network}, sets by test Dice of all pixels, best first: "
            + ", ".join(f"{run['set']} ({run['test']['pixel_dice']:.3f})" for run in ordered)
            + "."
        )
    shown = ", ".join(f"{run['set']} {run['settings']['epochs']}" for run in result["runs"])
    notes.append(f"Epochs: {shown}. Seconds of training and testing: {_seconds(result)}.")
    return [*notes, machine_note(result["machine"])]


def _seconds(result: dict[str, Any]) -> str:
    return ", ".join(
        f"{run['set']} {run['network']} "
        + ("not known, cut off" if run["seconds"] is None else f"{run['seconds']:.0f}")
        for run in result["runs"]
    )


def served_page(result: dict[str, Any]) -> str:
    """Return quality, seams and speed through the server, from `benchmarks.nuclei.served`."""
    whole = {**result, **result["nuclei"], "name": "all"}
    quality = markdown_table(
        ["field", "Dice", "IoU", "nuclei annotated", "found", "recall"],
        [_quality(frame) for frame in (*result["frames"], whole)],
    )
    seams = markdown_table(
        ["grid shifted by (x, y) px", f"pixels that differ by less than {LIMIT}/255", "largest"],
        [
            [
                f"({shift['offset'][0]}, {shift['offset'][1]})",
                f"{shift['below_limit']:.2%}",
                f"{shift['largest']}/255",
            ]
            for shift in result["seams"]["shifts"]
        ],
    )
    parts = [quality, "", seams, "", speed_table(result["speed"]), ""]
    return "\n".join([*parts, *(f"{note}\n" for note in _served_notes(result))])


def _quality(row: Mapping[str, Any]) -> list[str]:
    return [
        *(row["name"], f"{row['dice']:.3f}", f"{row['iou']:.3f}"),
        *(f"{row['annotated']}", f"{row['found']}", f"{row['recall']:.3f}"),
    ]


def _served_notes(result: dict[str, Any]) -> list[str]:
    return [
        f"`nuclei_unet`: {training_text(result['recipe'])}. Whole frames of cases that were "
        "not trained on, but chose the epoch, through the server: cleaned, tiled, stitched. Dice "
        f"against discs of radius {result['radius']:g} px around the annotated centres; a nucleus "
        "is found when a centre "
        "of the server lies within that radius, one to one. Many nuclei of BreCaHAD carry no "
        "point, so found ones without a partner are no errors.",
        f"Seams on {result['seams']['frame']}, away from its borders. Seconds are medians over "
        f"{', '.join(result['timed_frames'])}, {result['repeats']} rounds in turn, end to end; "
        "PyTorch predicts tile by tile. Peak memory of the server "
        f"{result['peak_bytes'] / 1e6:.0f} MB.",
        machine_note(result["machine"]),
    ]
