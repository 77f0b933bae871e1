"""How good the instances of study S4 are, over the frames of a test set."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.instances.average_precision import (
    THRESHOLDS,
    ap50,
    encode_frame,
    mean_average_precision,
)
from cytoserve import Cells
from training.datasets.annotated import AnnotatedCell
from training.evaluation.matching import match_cells, quality

Answers = Sequence[tuple[Cells, Sequence[AnnotatedCell]]]
"""The found and the annotated cells of every frame."""


@dataclass(frozen=True)
class InstanceQuality:
    """Figures of one pipeline, the study's first; NaN where there is nothing to measure."""

    annotated: float
    """Mean cells a frame in the truth."""
    found: float
    """Mean cells a frame that were found."""
    confidence: float
    """Mean score of all found cells; SAM's is the IoU that it predicts of its mask."""
    mean_average_precision: float
    """mAP over IoU 0.50:0.05:0.95, see `benchmarks.instances.average_precision`."""
    average_precision: dict[str, float]
    """By IoU threshold, ``"0.50"`` to ``"0.95"``, precision read at the study's 11 recalls."""
    ap50: float
    """COCO's: at IoU 0.50, precision read at 101 recalls."""
    recall: float
    """Share of annotated cells that are matched; for it and the next three see
    `training.evaluation.matching`."""
    precision: float
    f1: float
    panoptic_quality: float


def instance_quality(answers: Answers, class_count: int) -> InstanceQuality:
    """Figures over all frames together."""
    scores = [float(score) for found, _ in answers for score in found.scores]
    frames = [encode_frame(found, annotated) for found, annotated in answers]
    precision = mean_average_precision(frames, class_count, THRESHOLDS)
    matched = quality([match_cells(found, annotated) for found, annotated in answers])
    return InstanceQuality(
        annotated=_mean([len(cells) for _, cells in answers]),
        found=_mean([len(found) for found, _ in answers]),
        confidence=_mean(scores),
        mean_average_precision=_mean(list(precision.values())),
        average_precision={f"{threshold:.2f}": value for threshold, value in precision.items()},
        ap50=ap50(frames, class_count),
        recall=matched.recall,
        precision=matched.precision,
        f1=matched.f1,
        panoptic_quality=matched.panoptic_quality,
    )


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else float("nan")
