"""Whether two ways found the same cells, without which their times say nothing."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.peers.found import Found
from export.chain_parity import BOX_TOLERANCE, UNMATCHED, pair_cells

OUTLINE_IOU = 0.75
"""Least mean IoU of the outlines. ultralytics cuts masks out at a quarter of its network's
resolution and draws outlines through the centres of pixels: of cells of 11 network pixels, 0.81."""


class DifferentAnswers(Exception):
    """Two ways found different cells; their times are not comparable."""


@dataclass(frozen=True)
class Agreement:
    """How far a way's cells are those of the server."""

    found: int
    """Cells that the way found."""
    unmatched: int
    """Cells of either side without one within `BOX_TOLERANCE` pixels on the other."""
    box_deviation: float
    """Largest, in frame pixels, of the cells that both found."""
    outline_iou: float
    """Mean over the cells that both found."""
    other_class: int
    """Cells that both found and gave different classes."""


def compare(ours: Found, theirs: Found) -> Agreement:
    """Pair the cells of the server with those of another way and take the differences."""
    rows, columns, distance = pair_cells(ours.boxes, theirs.boxes)
    if not len(rows):
        return Agreement(len(theirs), len(ours) + len(theirs), 0.0, 0.0, 0)
    pairs = list(zip(rows.tolist(), columns.tolist(), strict=True))
    return Agreement(
        found=len(theirs),
        unmatched=len(ours) + len(theirs) - 2 * len(pairs),
        box_deviation=float(distance.max()),
        outline_iou=float(np.mean([iou(ours.outlines[a], theirs.outlines[b]) for a, b in pairs])),
        other_class=int((ours.class_ids[rows] != theirs.class_ids[columns]).sum()),
    )


def hold(
    way: str, case: str, ours: int, agreement: Agreement, unmatched_share: float = UNMATCHED
) -> None:
    """Refuse a way that does not find the server's cells.

    Args:
        way: its name.
        case: pipeline and frame, for the error.
        ours: cells that the server found.
        agreement: the differences.
        unmatched_share: of both sides' cells, that may have no partner.

    Raises:
        DifferentAnswers: they are beyond tolerance, or there is no cell to compare.
    """
    most = max(2, round(unmatched_share * (ours + agreement.found)))
    rules = (
        (ours > 0, "the server found no cell, so there is nothing to compare"),
        (
            agreement.unmatched <= most,
            f"{agreement.unmatched} cells of either side have none within {BOX_TOLERANCE} px on "
            f"the other, where {most} may; it found {agreement.found}, the server {ours}",
        ),
        (
            agreement.outline_iou >= OUTLINE_IOU,
            f"mean IoU of the outlines {agreement.outline_iou:.3f} < {OUTLINE_IOU}",
        ),
        (
            agreement.other_class <= max(1, round(UNMATCHED * ours)),
            f"{agreement.other_class} of {ours} cells have another class",
        ),
    )
    for holds, text in rules:
        if not holds:
            raise DifferentAnswers(
                f"{way} does not answer {case} as the server does: {text}. No time was taken."
            )


def iou(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    """Intersection over union of the areas inside two outlines ``[P, 2]``, on quarter pixels."""
    if not len(one) or not len(other):
        return float(len(one) == len(other))
    both = np.concatenate([one, other])
    low, high = np.floor(both.min(axis=0)), np.ceil(both.max(axis=0))
    width, height = (4 * (high - low) + 1).astype(int)
    masks = []
    for outline in (one, other):
        mask = np.zeros((height, width), np.uint8)
        cv2.fillPoly(mask, [np.round(4 * (outline - low)).astype(np.int32)], (1,))
        masks.append(mask.astype(bool))
    return float((masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum())
