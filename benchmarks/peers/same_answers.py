"""Checks that two contenders found the same cells, without which times are not comparable."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.peers.result import Agreement
from benchmarks.peers.wire import Found
from export.parity.instances import UNMATCHED

BOX_IOU = 0.6
"""Minimum IoU of two boxes of the same cell. If a mask extends beyond its box, the server enlarges
the box, so the boxes of one cell may differ by some pixels."""

OUTLINE_IOU = 0.75
"""Minimum mean IoU of the outlines. ultralytics crops masks at a quarter of its network's
resolution and draws outlines through the centres of pixels. For cells of 11 network pixels, the
mean is 0.81."""


class DifferentAnswers(Exception):
    """Two contenders found different cells, so their times are not comparable."""


def compare(ours: Found, theirs: Found) -> Agreement:
    """Pair the cells of the server with those of another contender, and measure differences."""
    rows, columns = pair_boxes(ours.boxes, theirs.boxes)
    if not len(rows):
        return Agreement(
            found=len(theirs),
            unmatched=len(ours) + len(theirs),
            box_deviation=0.0,
            outline_iou=0.0,
            other_class=0,
        )
    pairs = list(zip(rows.tolist(), columns.tolist(), strict=True))
    return Agreement(
        found=len(theirs),
        unmatched=len(ours) + len(theirs) - 2 * len(pairs),
        box_deviation=float(
            np.median(np.abs(ours.boxes[rows] - theirs.boxes[columns]).max(axis=1))
        ),
        outline_iou=float(np.mean([iou(ours.outlines[a], theirs.outlines[b]) for a, b in pairs])),
        other_class=int((ours.class_ids[rows] != theirs.class_ids[columns]).sum()),
    )


def hold(
    contender: str, case: str, ours: int, agreement: Agreement, unmatched_share: float = UNMATCHED
) -> None:
    """Check that a contender finds the server's cells.

    Args:
        contender: name of the contender.
        case: pipeline and frame, for the error.
        ours: number of cells that the server found.
        agreement: the differences.
        unmatched_share: share of both sides' cells that may have no partner.

    Raises:
        DifferentAnswers: the differences exceed the tolerance, or there is no cell to compare.
    """
    most = max(2, round(unmatched_share * (ours + agreement.found)))
    rules = (
        (ours > 0, "the server found no cell, so there is nothing to compare"),
        (
            agreement.unmatched <= most,
            f"{agreement.unmatched} cells of either side have none on the other whose box overlaps "
            f"by an IoU of {BOX_IOU}, where {most} may; it found {agreement.found}, the server "
            f"{ours}",
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
                f"{contender} does not answer {case} as the server does: {text}. No time was taken."
            )


def pair_boxes(
    ours: npt.NDArray[np.float32], theirs: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return indices of boxes ``[N, 4]`` that overlap each other most, by `BOX_IOU` or more."""
    if not len(ours) or not len(theirs):
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    low = np.maximum(ours[:, None, :2], theirs[None, :, :2])
    high = np.minimum(ours[:, None, 2:], theirs[None, :, 2:])
    shared = (high - low).clip(min=0).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (ours, theirs)]
    overlaps = shared / (areas[0][:, None] + areas[1][None] - shared)
    rows, best = np.arange(len(ours)), overlaps.argmax(axis=1)
    mutual = (overlaps.argmax(axis=0)[best] == rows) & (overlaps[rows, best] >= BOX_IOU)
    return rows[mutual], best[mutual]


def iou(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    """Return the IoU of the areas inside two outlines ``[P, 2]``, on quarter pixels."""
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
