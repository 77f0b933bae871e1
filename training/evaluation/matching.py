"""Matching of found cells with annotated ones, and the figures computed from the matches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cytoserve import Cells
from training.datasets.annotated import AnnotatedCell

MATCH_IOU = 0.5
"""Least mask IoU of a found cell and the annotated cell that it is matched with."""


@dataclass(frozen=True)
class Match:
    """A found cell and the annotated cell that it is matched with."""

    iou: float
    true_class: int
    found_class: int
    found_index: int
    """Index of the found cell in the answer."""
    annotated_index: int
    """Index of the annotated cell in its frame."""


@dataclass(frozen=True)
class FrameMatches:
    """One frame's matches and counts."""

    matches: tuple[Match, ...]
    found: int
    annotated: int


@dataclass(frozen=True)
class Quality:
    """Figures over all frames; NaN if there is nothing to measure."""

    iou: float
    """Mean mask IoU of the matched cells."""
    accuracy: float
    """Share of matched cells with the correct class."""
    balanced_accuracy: float
    """Mean over the classes of the share of matched cells with the correct class."""
    recall: float
    """Share of annotated cells that are matched."""
    precision: float
    """Share of found cells that are matched."""
    f1: float
    """Harmonic mean of recall and precision: TP / (TP + FP / 2 + FN / 2)."""
    panoptic_quality: float
    """Sum of the IoU of all matches / (TP + FP / 2 + FN / 2), regardless of class.

    Segmentation quality (the mean IoU of matched cells) times recognition quality (F1), as in
    Kirillov et al. 2019, "Panoptic Segmentation". There an IoU of exactly 0.5 is not a match.
    """


def match_cells(found: Cells, annotated: Sequence[AnnotatedCell]) -> FrameMatches:
    """Match greedily: the highest-scored cell takes the annotated one that it overlaps most.

    Every annotated cell is taken at most once, as in COCO's evaluation.
    """
    boxes = np.array([cell.box for cell in annotated], float).reshape(-1, 4)
    free = np.ones(len(annotated), bool)
    matches = []
    for place, (region, class_id) in enumerate(
        zip(found.regions(), found.class_ids.tolist(), strict=True)
    ):
        if not region.mask.any():
            continue
        cell = AnnotatedCell.cut(region.mask, class_id, x=region.columns.start, y=region.rows.start)
        # Compare only cells whose boxes overlap: frames may have thousands of both.
        meeting = (boxes[:, :2] < cell.box[2:]) & (boxes[:, 2:] > cell.box[:2])
        near = np.flatnonzero(meeting.all(axis=1) & free)
        if not near.size:
            continue
        overlaps = [mask_iou(cell, annotated[index]) for index in near]
        best = int(np.argmax(overlaps))
        if overlaps[best] >= MATCH_IOU:
            taken = int(near[best])
            free[taken] = False
            true_class = annotated[taken].class_id
            matches.append(Match(overlaps[best], true_class, class_id, place, taken))
    return FrameMatches(tuple(matches), len(found), len(annotated))


def mask_iou(one: AnnotatedCell, other: AnnotatedCell) -> float:
    """Intersection over union of two masks, computed from their patches alone."""
    x0, y0 = max(one.x, other.x), max(one.y, other.y)
    x1 = min(one.x + one.mask.shape[1], other.x + other.mask.shape[1])
    y1 = min(one.y + one.mask.shape[0], other.y + other.mask.shape[0])
    if x1 <= x0 or y1 <= y0:
        return 0.0
    shared = int(np.count_nonzero(_window(one, x0, y0, x1, y1) & _window(other, x0, y0, x1, y1)))
    return shared / (one.area + other.area - shared)


def _window(cell: AnnotatedCell, x0: int, y0: int, x1: int, y1: int) -> npt.NDArray[np.bool_]:
    return cell.mask[y0 - cell.y : y1 - cell.y, x0 - cell.x : x1 - cell.x]


def quality(frames: Sequence[FrameMatches]) -> Quality:
    """Compute the figures over the cells of all frames together."""
    matches = [match for frame in frames for match in frame.matches]
    found, annotated = sum(f.found for f in frames), sum(f.annotated for f in frames)
    right = np.array([match.true_class == match.found_class for match in matches], float)
    classes = np.array([match.true_class for match in matches], int)
    per_class = [right[classes == class_id].mean() for class_id in np.unique(classes)]
    # TP + FP / 2 + FN / 2, since TP + FP = found and TP + FN = annotated.
    cells = (found + annotated) / 2
    overlap = sum(match.iou for match in matches if match.iou > MATCH_IOU)
    return Quality(
        iou=_mean([match.iou for match in matches]),
        accuracy=_mean(right.tolist()),
        balanced_accuracy=_mean(per_class),
        recall=len(matches) / annotated if annotated else float("nan"),
        precision=len(matches) / found if found else float("nan"),
        f1=len(matches) / cells if cells else float("nan"),
        panoptic_quality=overlap / cells if cells else float("nan"),
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
