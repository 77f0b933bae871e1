"""The result of `benchmarks.variants`: its figures, bounds, choice and page."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.harness.bounds import Bound, Figures
from benchmarks.harness.results import Result, machine_note, table_of
from export.parity.accuracy_budget import LARGEST_DROP
from server.variants import DEFAULT


@dataclass(frozen=True, kw_only=True)
class VariantRow:
    """Figures of one variant of one pipeline, compared with the default."""

    variant: str
    pipeline: str
    models: str
    """Steps that the variant configures."""
    seconds: float
    default_seconds: float
    speedup: float
    """Median of the default's seconds / median of the variant's seconds."""
    iou_drop: float | None
    """The default's figure on annotated frames - the variant's; so are the other drops."""
    accuracy_drop: float | None
    recall_drop: float | None
    precision_drop: float | None
    dice_drop: float | None
    proven_on: str
    frames: int
    beyond_budget: str
    """Figures beyond the budget in words; empty if the variant keeps it."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A variant, of all pipelines or of one, that cannot be served on this machine."""

    variant: str
    pipeline: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class VariantsResult(Result):
    """All variants of a repository that serve a single client."""

    model_repository: str
    pipelines: tuple[str, ...]
    side: int
    """Side in pixels of the timed frame."""
    cells: int
    repeats: int
    score_threshold: float | None
    overlap_threshold: float
    rows: tuple[VariantRow, ...]
    refusals: tuple[Refusal, ...]


def _drops(figure: Callable[[VariantRow], float | None]) -> Callable[[VariantsResult], Figures]:
    return lambda result: ((f"{row.variant}, {row.pipeline}", figure(row)) for row in result.rows)


BOUNDS: tuple[Bound[VariantsResult], ...] = tuple(
    Bound(
        f"Faster variants, {title}",
        "the default's figure on annotated frames - that of a variant",
        "<=",
        LARGEST_DROP[name],
        _drops(figure),
    )
    for title, name, figure in (
        ("IoU", "iou", lambda row: row.iou_drop),
        ("accuracy", "accuracy", lambda row: row.accuracy_drop),
        ("Dice", "dice", lambda row: row.dice_drop),
    )
)


def mean_speedups(rows: Sequence[VariantRow], pipelines: Sequence[str]) -> dict[str, float]:
    """Return variant -> geometric mean of its speedups, if it keeps the budget everywhere."""
    found = {DEFAULT: 1.0}
    for name in dict.fromkeys(row.variant for row in rows):
        own = {row.pipeline: row for row in rows if row.variant == name}
        if not any(row.beyond_budget for row in own.values()):
            speedups = [own[p].speedup if p in own else 1.0 for p in pipelines]
            found[name] = statistics.geometric_mean(speedups)
    return found


def fastest(result: VariantsResult) -> tuple[str, float]:
    """Return the fastest variant within its budget, or `DEFAULT`, and its mean speedup."""
    speedups = mean_speedups(result.rows, result.pipelines)
    winner = max(speedups, key=lambda name: speedups[name])
    return winner, speedups[winner]


def choice(result: VariantsResult) -> str:
    """Return the winner, the reason, and the command line that serves it, as Markdown."""
    winner, speedup = fastest(result)
    if winner != DEFAULT:
        reason = (
            f"**Serve with `--variant {winner}`:** over all measured pipelines "
            f"{speedup:.2f} times as fast as the default, within its budget in each."
        )
    elif result.rows:
        reason = "**Serve with `--variant default`:** none is faster within its budget."
    else:
        reason = "**Serve with `--variant default`:** no other may run here."
    flag = f" --variant {winner}"
    repository = result.model_repository
    lines = [reason, "", f"    python -m server --model-repository {repository}{flag}"]
    for pipeline in result.pipelines:
        allowed = [
            row
            for row in result.rows
            if row.pipeline == pipeline and not row.beyond_budget and row.speedup > 1
        ]
        best = max(allowed, key=lambda row: row.speedup, default=None)
        if (best.variant if best else DEFAULT) != winner:
            name = best.variant if best else DEFAULT
            lines += ["", f"For `{pipeline}` alone `--variant {name}` is the fastest."]
    return "\n".join(lines)


def variants_page(result: VariantsResult) -> str:
    """Return the figures, the refusals and the choice as Markdown."""
    lines = _figures(result) if result.rows else []
    for refusal in result.refusals:
        lines += [f"Refused: {refusal.variant}, {refusal.pipeline}: {refusal.reason}", ""]
    return "\n".join([*lines, choice(result), "", machine_note(result.machine), ""])


def _figures(result: VariantsResult) -> list[str]:
    """Return a table with one row per variant and pipeline, below its explanation."""
    return [
        f"Frames of {result.side} x {result.side} px with {result.cells} cells, sent in "
        f"turn, {result.repeats} times to each; the speedup is the default's median by the "
        "variant's, end to end. Drops are against the default on annotated frames; allowed: "
        + ", ".join(f"{name} {largest:g}" for name, largest in LARGEST_DROP.items())
        + ".",
        "",
        table_of(
            result.rows,
            {
                "variant": lambda row: row.variant,
                "pipeline": lambda row: row.pipeline,
                "in another way": lambda row: row.models,
                "default s": lambda row: f"{row.default_seconds:.3f}",
                "variant s": lambda row: f"{row.seconds:.3f}",
                "speedup": lambda row: f"{row.speedup:.2f}",
                "IoU drop": lambda row: _drop_text(row.iou_drop),
                "accuracy drop": lambda row: _drop_text(row.accuracy_drop),
                "recall drop": lambda row: _drop_text(row.recall_drop),
                "precision drop": lambda row: _drop_text(row.precision_drop),
                "Dice drop": lambda row: _drop_text(row.dice_drop),
                "on": lambda row: f"{row.frames} frames, {row.proven_on}",
                "verdict": lambda row: row.beyond_budget or "within its budget",
            },
        ),
        "",
    ]


def _drop_text(drop: float | None) -> str:
    return "" if drop is None else f"{drop:.4f}"
