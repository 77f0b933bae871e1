"""Computes average precision of found cells, as study S4 and as COCO define it.

A found cell is a true positive if its mask IoU reaches the threshold and the annotated cell was not
taken yet: the better-scored cell chooses first, and takes the free annotated cell of its frame that
it overlaps most. Precision is read at fixed recalls, over the cells of all frames together, and
averaged over the classes that are annotated.

Two figures are in use. Study S4 reads precision at 11 recalls (Everingham et al. 2010, "The PASCAL
Visual Object Classes Challenge", section 4.2) and averages over IoU 0.50:0.05:0.95. AP50 is COCO's:
101 recalls, IoU 0.50.

Masks are those of `Cells.regions`, as a user gets them. They are held as run lengths, some hundred
bytes per cell; the frame itself is never made.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval, Params

from cytoserve import Cells
from cytoserve.patches import run_lengths
from training.datasets.annotated import AnnotatedCell, rle_from_cell

THRESHOLDS = tuple(hundredths / 100 for hundredths in range(50, 100, 5))
"""Mask IoU thresholds from which a found cell may be right."""

STUDY_RECALLS: npt.NDArray[np.float64] = np.arange(11) / 10
"""Recalls at which study S4 reads precision."""

COCO_RECALLS: npt.NDArray[np.float64] = Params("segm").recThrs
"""Recalls at which COCO reads precision: 0, 0.01, ... 1."""

Annotation = dict[str, Any]


@dataclass(frozen=True)
class EncodedFrame:
    """The found and the annotated cells of one frame as COCO annotations without ids."""

    shape: tuple[int, int]
    """``(H, W)`` in pixels."""
    found: tuple[Annotation, ...]
    annotated: tuple[Annotation, ...]


def encode_frame(found: Cells, annotated: Sequence[AnnotatedCell]) -> EncodedFrame:
    """Encode the masks of both; a found cell without a pixel stays and matches nothing."""
    height, width = found.frame_shape
    finds = []
    for region, score, class_id in zip(
        found.regions(), found.scores.tolist(), found.class_ids.tolist(), strict=True
    ):
        runs = {"size": [height, width], "counts": run_lengths(region, (height, width))}
        rle = coco_mask.frPyObjects(runs, height, width)
        area = int(np.count_nonzero(region.mask))
        finds.append(_annotation(rle, area, class_id) | {"score": score})
    truth = [
        _annotation(rle_from_cell(cell, height, width), cell.area, cell.class_id)
        for cell in annotated
    ]
    return EncodedFrame(found.frame_shape, tuple(finds), tuple(truth))


def mean_average_precision(
    frames: Sequence[EncodedFrame],
    class_count: int,
    thresholds: Sequence[float] = THRESHOLDS,
) -> dict[float, float]:
    """Compute 11-point average precision by IoU threshold, as study S4 defines it.

    Args:
        frames: frames in order; of cells with equal scores, those of earlier frames come first.
        class_count: number of classes K; class ids are 0..K-1.
        thresholds: thresholds of mask IoU.

    Returns:
        threshold -> average precision, whose mean is mAP; NaN if no cell is annotated.
    """
    values = _average_precision(frames, class_count, thresholds, STUDY_RECALLS)
    return dict(zip(thresholds, values, strict=True))


def ap50(frames: Sequence[EncodedFrame], class_count: int) -> float:
    """Compute COCO's AP50: average precision at IoU 0.50, with precision read at 101 recalls.

    It is NaN if no cell is annotated. See `mean_average_precision` for the arguments.
    """
    return _average_precision(frames, class_count, (0.5,), COCO_RECALLS)[0]


def _average_precision(
    frames: Sequence[EncodedFrame],
    class_count: int,
    thresholds: Sequence[float],
    recalls: npt.NDArray[np.float64],
) -> list[float]:
    """Return the average precision per threshold."""
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        truth = _coco([(frame.shape, frame.annotated) for frame in frames], class_count)
        found = _coco([(frame.shape, frame.found) for frame in frames], class_count)
        evaluation = COCOeval(truth, found, "segm")
        evaluation.params.iouThrs = np.array(thresholds)
        evaluation.params.recThrs = recalls
        evaluation.params.maxDets = [sys.maxsize]  # COCO's own limit is 100 cells per frame
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, sys.maxsize]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., 0, 0]  # threshold, recall, class
    known = precision[:, :, (precision > -1).all(axis=(0, 1))]  # -1: class without annotation
    if not known.size:
        return [float("nan")] * len(thresholds)
    return [float(value) for value in known.mean(axis=(1, 2))]


def _coco(frames: Sequence[tuple[tuple[int, int], Sequence[Annotation]]], class_count: int) -> COCO:
    """Index shape and annotations of all frames for pycocotools."""
    images = [
        {"id": number, "height": height, "width": width}
        for number, ((height, width), _) in enumerate(frames, start=1)
    ]
    placed = [
        {**annotation, "image_id": number}
        for number, (_, annotations) in enumerate(frames, start=1)
        for annotation in annotations
    ]
    coco = COCO()
    coco.dataset = {
        "images": images,
        # Ids start at 1: COCO's evaluation takes 0 for "no match".
        "annotations": [{**each, "id": number} for number, each in enumerate(placed, start=1)],
        "categories": [{"id": number} for number in range(1, class_count + 1)],
    }
    coco.createIndex()
    return coco


def _annotation(rle: dict[str, Any], area: int, class_id: int) -> Annotation:
    return {"segmentation": rle, "area": area, "iscrowd": 0, "category_id": class_id + 1}
