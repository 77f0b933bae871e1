"""Mean average precision of found cells, as study S4 measures it.

A found cell is a true positive when its mask IoU reaches the threshold and the annotated cell was
not taken yet: the better-scored cell chooses first, and takes the free annotated cell of its frame
that it overlaps most. Average precision is interpolated at 11 points of recall (Everingham et al.
2010, "The PASCAL Visual Object Classes Challenge", section 4.2), over the cells of all frames
together; the mean is over IoU 0.50:0.05:0.95, and over the classes that are annotated.

The matching, and what counts, are those of COCO's evaluation (pycocotools with ``recThrs`` of 11
points), which needs a whole frame a mask; here masks are compared in their patches, and only where
their boxes meet, so memory is that of one frame's pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cytoserve import Cells
from export.matching import mask_iou
from training.annotated import AnnotatedCell

THRESHOLDS = tuple(hundredths / 100 for hundredths in range(50, 100, 5))
"""Mask IoU from which on a found cell may be right."""

RECALL_POINTS = 11
"""Recalls 0, 0.1, ... 1 at which precision is read."""


@dataclass(frozen=True, eq=False)
class FrameOverlaps:
    """How the found cells of one frame and one class overlap the annotated ones.

    Attributes:
        scores: ``[N]``, of the found cells, in any order.
        found: int ``[P]``, the found cell of every pair.
        annotated: int ``[P]``, the annotated cell of every pair.
        ious: ``[P]``, mask IoU of every pair that reaches the lowest of `THRESHOLDS`.
        annotated_count: annotated cells, those without a pair included.
    """

    scores: npt.NDArray[np.float64]
    found: npt.NDArray[np.intp]
    annotated: npt.NDArray[np.intp]
    ious: npt.NDArray[np.float64]
    annotated_count: int

    def hits(self, threshold: float) -> npt.NDArray[np.bool_]:
        """Return for every found cell whether it is a true positive at this IoU."""
        hits = np.zeros(len(self.scores), np.bool_)
        free = np.ones(self.annotated_count, np.bool_)
        for index in np.argsort(-self.scores, kind="stable"):
            pairs = np.flatnonzero((self.found == index) & (self.ious >= threshold))
            pairs = pairs[free[self.annotated[pairs]]]
            if len(pairs):
                hits[index] = True
                pairs = pairs[::-1]  # of equal overlaps COCO's evaluation takes the last
                free[self.annotated[pairs[np.argmax(self.ious[pairs])]]] = False
        return hits


def frame_overlaps(
    found: Cells, annotated: Sequence[AnnotatedCell], class_id: int
) -> FrameOverlaps:
    """Compare the cells of one class in one frame. A found cell without a pixel has no pair."""
    truth = [cell for cell in annotated if cell.class_id == class_id]
    chosen = found[found.class_ids == class_id]
    corners = np.array([cell.box for cell in truth]).reshape(-1, 4)
    pairs: list[tuple[int, int, float]] = []
    for index, region in enumerate(chosen.regions()):
        if not region.mask.any():
            continue
        cell = AnnotatedCell.cut(region.mask, class_id, x=region.columns.start, y=region.rows.start)
        x0, y0, x1, y1 = cell.box
        meet = (
            (corners[:, 0] < x1)
            & (corners[:, 2] > x0)
            & (corners[:, 1] < y1)
            & (corners[:, 3] > y0)
        )
        overlaps = [(int(other), mask_iou(cell, truth[other])) for other in np.flatnonzero(meet)]
        pairs += [(index, other, iou) for other, iou in overlaps if iou >= THRESHOLDS[0]]
    return FrameOverlaps(
        chosen.scores.astype(np.float64),
        np.array([pair[0] for pair in pairs], np.intp),
        np.array([pair[1] for pair in pairs], np.intp),
        np.array([pair[2] for pair in pairs], np.float64),
        len(truth),
    )


def average_precision(frames: Sequence[FrameOverlaps], threshold: float) -> float:
    """11-point interpolated average precision of one class over all frames, 0..1.

    NaN where no cell is annotated. Of cells with equal scores those of earlier frames come first.
    """
    annotated = sum(frame.annotated_count for frame in frames)
    if not annotated:
        return float("nan")
    scores = np.concatenate([frame.scores for frame in frames])
    hits = np.concatenate([frame.hits(threshold) for frame in frames])
    right = np.cumsum(hits[np.argsort(-scores, kind="stable")])
    precision = right / np.arange(1, len(right) + 1)
    # The best precision at this recall or a higher one.
    best = np.maximum.accumulate(precision[::-1])[::-1]
    total = 0.0
    for point in range(RECALL_POINTS):
        # In whole numbers: 3 of 10 cells are a recall of 0.3, whatever 0.3 is in binary.
        reached = int(np.searchsorted(right * (RECALL_POINTS - 1), point * annotated))
        total += float(best[reached]) if reached < len(best) else 0.0
    return total / RECALL_POINTS


def mean_average_precision(
    answers: Sequence[tuple[Cells, Sequence[AnnotatedCell]]],
    class_count: int,
    thresholds: Sequence[float] = THRESHOLDS,
) -> dict[float, float]:
    """Average precision by IoU threshold, each the mean over the classes that are annotated.

    Args:
        answers: the found and the annotated cells of every frame.
        class_count: K; class ids are 0..K-1.
        thresholds: of mask IoU; the lowest of `THRESHOLDS` or more.

    Returns:
        threshold -> average precision, whose mean is mAP; NaN where no cell is annotated.
    """
    classes = [
        [frame_overlaps(found, annotated, class_id) for found, annotated in answers]
        for class_id in range(class_count)
        if any(cell.class_id == class_id for _, annotated in answers for cell in annotated)
    ]
    return {
        threshold: float(np.mean([average_precision(frames, threshold) for frames in classes]))
        if classes
        else float("nan")
        for threshold in thresholds
    }
