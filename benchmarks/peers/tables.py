"""The comparison with the peers as Markdown."""

from __future__ import annotations

from typing import Any

from benchmarks.harness.results import machine_note

OURS = "cytoserve"
"""Name of this server among the contenders."""


def served_name(variant: str) -> str:
    """The name of this server with a variant of its model repository."""
    return f"{OURS} {variant}"


def peers_table(result: dict[str, Any]) -> str:
    """The table of a result of `benchmarks.peers`."""
    clients = result["clients"]
    rows = [
        f"| pipeline | frame | cells | way | found | unmatched | outline IoU | other class "
        f"| s a frame | x the server's | frames/s, {clients} clients | server's / its |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["frames"]:
        rows.append(
            f"| `{row['pipeline']}` | {row['width']} x {row['height']} | {row['cells']} "
            f"| {row['way']} | {row['found']} | {row['unmatched']} | {row['outline_iou']:.3f} "
            f"| {row['other_class']} | {row['seconds']:.3f} | {row['seconds_ratio']:.2f} "
            f"| {row['frames_per_second']:.2f} | {row['throughput_ratio']:.2f} |"
        )
    ways = [
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
    return "\n".join([*rows, "", *ways, *missing, "", *(f"{note}\n" for note in notes)])
