"""The comparison with the peers as Markdown."""

from __future__ import annotations

from typing import Any

from benchmarks.harness.markdown import markdown_table
from benchmarks.harness.results import machine_note

OURS = "cytoserve"
"""Name of this server among the contenders."""


def served_name(variant: str) -> str:
    """Return the name of this server with a variant of its model repository."""
    return f"{OURS} {variant}"


def peers_table(result: dict[str, Any]) -> str:
    """Return the page of a result of `benchmarks.peers`."""
    clients = result["clients"]
    table = markdown_table(
        [
            *("pipeline", "frame", "cells", "way", "found", "unmatched", "outline IoU"),
            *("other class", "s a frame", "x the server's", f"frames/s, {clients} clients"),
            "server's / its",
        ],
        [
            [
                *(f"`{row['pipeline']}`", f"{row['width']} x {row['height']}", f"{row['cells']}"),
                *(row["way"], f"{row['found']}", f"{row['unmatched']}"),
                *(f"{row['outline_iou']:.3f}", f"{row['other_class']}", f"{row['seconds']:.3f}"),
                *(f"{row['seconds_ratio']:.2f}", f"{row['frames_per_second']:.2f}"),
                f"{row['throughput_ratio']:.2f}",
            ]
            for row in result["frames"]
        ],
    )
    contenders = [
        f"- {way['way']}{' ' * bool(way['version'])}{way['version']}: {way['title']}."
        for way in result["ways"]
    ]
    missing = [f"- {each['reason']}" for each in result["left_out"]]
    notes = [
        f"Seconds are the median of {result['repeats']} frames of one client; frames per second "
        f"those of {clients} clients that send {result['requests']} frames each, the median of "
        f"{result['bursts']} bursts. Found, unmatched, IoU and classes are against the server's "
        "cells.",
        f"`{result['command']}`",
        machine_note(result["machine"]),
    ]
    return "\n".join([table, "", *contenders, *missing, "", *(f"{note}\n" for note in notes)])
