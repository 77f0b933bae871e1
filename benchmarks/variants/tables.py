"""Variants beside the default as Markdown, and the choice that follows from their figures."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.harness.markdown import markdown_table
from benchmarks.harness.results import machine_note
from benchmarks.harness.serving import DEFAULT
from export.parity.accuracy_budget import LARGEST_DROP


def mean_speedups(rows: Sequence[Mapping[str, Any]], pipelines: Sequence[str]) -> dict[str, float]:
    """Return variant -> geometric mean of its speedups, if it keeps the budget everywhere."""
    found = {DEFAULT: 1.0}
    for name in dict.fromkeys(row["variant"] for row in rows):
        own = {row["pipeline"]: row for row in rows if row["variant"] == name}
        if not any(row["beyond_budget"] for row in own.values()):
            speedups = [own[p]["speedup"] if p in own else 1.0 for p in pipelines]
            found[name] = statistics.geometric_mean(speedups)
    return found


def choice(result: Mapping[str, Any]) -> str:
    """Return the winner, the reason, and the command line that serves it, as Markdown."""
    speedups = mean_speedups(result["rows"], result["pipelines"])
    winner = max(speedups, key=lambda name: speedups[name])
    lines = []
    if winner == DEFAULT:
        lines.append(
            "**Serve without a variant:** none that may run here is faster within its budget."
            if result["rows"]
            else "**Serve without a variant:** none may run here."
        )
    else:
        lines.append(
            f"**Serve with `--variant {winner}`:** over all measured pipelines "
            f"{speedups[winner]:.2f} times as fast as the default, within its budget in each."
        )
    flag = "" if winner == DEFAULT else f" --variant {winner}"
    repository = result["model_repository"]
    lines += ["", f"    python -m server --model-repository {repository}{flag}"]
    for pipeline in result["pipelines"]:
        allowed = [
            row
            for row in result["rows"]
            if row["pipeline"] == pipeline and not row["beyond_budget"] and row["speedup"] > 1
        ]
        best = max(allowed, key=lambda row: float(row["speedup"]), default=None)
        if (best["variant"] if best else DEFAULT) != winner:
            fastest = f"`--variant {best['variant']}`" if best else "no variant"
            lines += ["", f"For `{pipeline}` alone {fastest} is the fastest."]
    return "\n".join(lines)


def variants_table(result: Mapping[str, Any]) -> str:
    """Return the figures, the refusals and the choice as Markdown."""
    lines = _figures(result) if result["rows"] else []
    for refusal in result["refusals"]:
        lines += [f"Refused: {refusal['variant']}, {refusal['pipeline']}: {refusal['reason']}", ""]
    return "\n".join([*lines, choice(result), "", machine_note(result["machine"]), ""])


def _figures(result: Mapping[str, Any]) -> list[str]:
    """Return a table with one row per variant and pipeline, below its explanation."""
    drops = ("iou", "accuracy", "recall", "precision", "dice")
    return [
        f"Frames of {result['side']} x {result['side']} px with {result['cells']} cells, sent in "
        f"turn, {result['repeats']} times to each; the speedup is the default's median by the "
        "variant's, end to end. Drops are against the default on annotated frames; allowed: "
        + ", ".join(f"{name} {largest:g}" for name, largest in LARGEST_DROP.items())
        + ".",
        "",
        markdown_table(
            [
                *("variant", "pipeline", "in another way", "default s", "variant s", "speedup"),
                *("IoU drop", "accuracy drop", "recall drop", "precision drop", "Dice drop"),
                *("on", "verdict"),
            ],
            [
                [
                    *(row["variant"], row["pipeline"], row["models"]),
                    *(f"{row['default_seconds']:.3f}", f"{row['seconds']:.3f}"),
                    f"{row['speedup']:.2f}",
                    *(_drop_text(row[f"{name}_drop"]) for name in drops),
                    f"{row['frames']} frames, {row['proven_on']}",
                    row["beyond_budget"] or "within its budget",
                ]
                for row in result["rows"]
            ],
        ),
        "",
    ]


def _drop_text(drop: float | None) -> str:
    return "" if drop is None else f"{drop:.4f}"
