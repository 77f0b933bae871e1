"""How good the instances of study S4 are, over the frames of a test set."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.average_precision import THRESHOLDS, mean_average_precision
from cytoserve import Cells
from training.annotated import AnnotatedCell

Answers = Sequence[tuple[Cells, Sequence[AnnotatedCell]]]
"""The found and the annotated cells of every frame."""


@dataclass(frozen=True)
class InstanceQuality:
    """The study's figures of one pipeline; NaN where there is nothing to measure."""

    annotated: float
    """Mean cells a frame in the truth."""
    found: float
    """Mean cells a frame that were found."""
    confidence: float
    """Mean score of all found cells; SAM's is the IoU that it predicts of its mask."""
    mean_average_precision: float
    """mAP over IoU 0.50:0.05:0.95, see `benchmarks.average_precision`."""
    average_precision: dict[str, float]
    """By IoU threshold, ``"0.50"`` to ``"0.95"``."""


def instance_quality(answers: Answers, class_count: int) -> InstanceQuality:
    """Figures over all frames together."""
    scores = [float(score) for found, _ in answers for score in found.scores]
    precision = mean_average_precision(answers, class_count, THRESHOLDS)
    return InstanceQuality(
        annotated=_mean([len(cells) for _, cells in answers]),
        found=_mean([len(found) for found, _ in answers]),
        confidence=_mean(scores),
        mean_average_precision=_mean(list(precision.values())),
        average_precision={f"{threshold:.2f}": value for threshold, value in precision.items()},
    )


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else float("nan")
