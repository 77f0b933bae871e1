"""Compare an instance pipeline's chain with the original libraries on whole frames."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from cytoserve.contract import (
    DEFAULT_MAX_CELLS,
    INSTANCE_OUTPUTS,
    OVERLAP_THRESHOLD,
    PIPELINES,
    SCORE_THRESHOLD,
)
from cytoserve.patches import Region, regions
from export.parity.chain import Arrays, Chain
from export.parity.reference import Detector, ReferenceCells
from export.parity.steps import ParityError
from training.checkpoint import LearnedScale

BOX_TOLERANCE = 0.5
"""Largest distance, in frame pixels, between two boxes of the same cell."""

MASK_IOU = 0.99
"""Minimum mean mask IoU over the cells of a frame that both sides found.

Where a mask has structure finer than a patch's pixels, only what a patch can hold is required, see
`_holdable`. Of a small cell, only an outline within `OUTLINE_TOLERANCE` is required."""

OUTLINE_TOLERANCE = 0.1
"""Mean distance of two outlines of a cell, in network pixels, that is always allowed.

The libraries draw a mask on the pixels of their tile, which are then resized to the frame; a patch
is sampled directly. Where a network sees a frame at half its scale, that moves the outlines of
small cells by a tenth of a network pixel: T98G's, of 20 by 60 frame pixels, have a mean IoU of
0.986. A shift by half a pixel moves them by three times as much."""

MASK_CHANCE = 0.01
"""Amount by which one cell's mask IoU may be below the minimum by chance.

It is about a pixel of a small cell's outline. The mean over N cells may be below by this amount
divided by the square root of N."""

UNMATCHED = 0.02
"""Share of both sides' cells that may have no partner.

OpenCV's letterbox rounds some pixels one grey level differently from ours, and any convolution
rounds its last digits differently. Either can carry a score over a threshold, or let NMS prefer a
neighbouring box. See `_most_unmatched` for frames of few cells."""

CLASS_MARGIN = 0.02
"""Difference of a cell's two best classes below which rounding may choose either."""

REFERENCE_PIXELS = 250_000_000
"""Maximum number of pixels of all masks together that a library is asked for.

A library holds a whole frame per cell in float32, where the chain holds a patch. At a threshold
with more pixels, a frame is not compared."""

TILED = 1.2
"""Length of an extended frame in sides of the network's field, so that it takes several tiles."""

MAX_EXTENDED = 3.0
"""Length of an extended frame in those of the frame, beyond which it would be a narrow strip."""

THRESHOLDS = (0.5, SCORE_THRESHOLD, 0.05)
"""Score thresholds that give few to very many cells, whatever the network has learned."""


Classify = Callable[[npt.NDArray[np.uint16], npt.NDArray[np.generic]], npt.NDArray[np.int64]]
"""Function that returns class ids ``[N]`` of the cells in a frame's boxes.

It takes the camera frame ``[H, W, C]`` and boxes ``[N, 4]``."""


@dataclass(frozen=True)
class ChainParity:
    """Parity figures of one frame at one score threshold."""

    frame: str
    score_threshold: float
    cells: int
    unmatched: int
    """Number of cells of either side without one within `BOX_TOLERANCE` on the other side.

    Cells that the reference calls doubtful are left out."""
    box_deviation: float
    """Largest box deviation, in frame pixels, of the cells that both sides found."""
    mask_iou: float
    """Mean mask IoU over the cells that both sides found."""
    same_classes: float
    """Share of the cells with a clear class whose classes agree."""
    least_mask_iou: float = MASK_IOU
    """Minimum of `mask_iou`, apart from `MASK_CHANCE`."""


def check_chain(
    chain: Chain,
    detector: Detector,
    classify: Classify | None,
    frames: Mapping[str, npt.NDArray[np.generic]],
    scale: LearnedScale,
    thresholds: Sequence[float] | None = None,
) -> list[ChainParity]:
    """Compare the chain with its detector's library, and its classifier where there is one.

    Args:
        chain: the graphs of an instance pipeline.
        detector: the same network, run by the library that trained it.
        classify: the same classifier in torch; None where the detector gives the classes.
        frames: name -> camera frame ``[H, W]`` or ``[H, W, C]``. The first is compared once more,
            extended into several tiles.
        scale: scale at which the frames are seen.
        thresholds: score thresholds to try; None tries `THRESHOLDS`.

    Raises:
        ParityError: a frame's figures are beyond tolerance, or no frame was small enough.
    """
    figures = []
    field = PIPELINES[chain.pipeline].field
    wanted = THRESHOLDS if thresholds is None else thresholds
    for name, image, network_scale, chosen in sized_views(frames, scale, field, wanted):
        camera = np.atleast_3d(image).astype(np.uint16)
        overlap = scale.largest_cell_px * scale.network_scale
        for threshold in chosen:
            answer = chain.run(
                instance_inputs(camera, threshold, scale=network_scale, tile_overlap=overlap),
                [tensor.name for tensor in INSTANCE_OUTPUTS],
            )
            if len(answer["boxes"]) * camera.shape[0] * camera.shape[1] > REFERENCE_PIXELS:
                continue
            expected = detector.cells(camera, network_scale, overlap, threshold, OVERLAP_THRESHOLD)
            # The classifier gets crops of the chain's own boxes: half a pixel more or less may
            # change the class of a doubtful cell, which is not the chain's fault.
            classes = None if classify is None else classify(camera, answer["boxes"])
            figure = _compare(name, threshold, answer, expected, classes, network_scale)
            _hold(figure)
            figures.append(figure)
    if not figures:
        raise ParityError(
            f"none of {len(frames)} frames can be compared with {detector.library}, whose masks "
            f"would have more than {REFERENCE_PIXELS:,} pixels together; give smaller frames, or "
            "frames of fewer cells, with --frames."
        )
    return figures


def sized_views(
    frames: Mapping[str, npt.NDArray[np.generic]],
    scale: LearnedScale,
    field: int,
    thresholds: Sequence[float],
) -> Iterator[tuple[str, npt.NDArray[np.generic], float, Sequence[float]]]:
    """Name, frame, network pixels per frame pixel, and thresholds of every comparison.

    The first frame comes twice, the second time extended beyond ``field`` network pixels.
    """
    for index, (name, image) in enumerate(frames.items()):
        yield name, image, scale.network_scale, thresholds
        length = math.ceil(TILED * field / scale.network_scale)
        if index == 0 and 1 < length / max(image.shape[:2]) <= MAX_EXTENDED:
            longer = extended(image, length)
            yield f"{name} in tiles", longer, scale.network_scale, thresholds[:1]


def extended(image: npt.NDArray[np.generic], length: int) -> npt.NDArray[np.generic]:
    """Return a frame whose longer side has ``length`` pixels and that has no more pixels in all.

    It is continued by its mirror image and made narrower. So its cells keep the size that the
    network learned. Enlarged by 2.4, a well trained Mask R-CNN saw 87 cells in place of 15, among
    which rounding chose.
    """
    axis = int(image.shape[1] > image.shape[0])
    width = max(1, image.shape[0] * image.shape[1] // length)
    more = [(0, length - side if each == axis else 0) for each, side in enumerate(image.shape)]
    longer = np.pad(image, more, mode="reflect")
    return longer[:width] if axis else longer[:, :width]


def instance_inputs(
    camera: npt.NDArray[np.uint16],
    score_threshold: float,
    max_cells: int = DEFAULT_MAX_CELLS,
    *,
    scale: float = 1.0,
    tile_overlap: float = 128.0,
) -> Arrays:
    """Inputs of an instance pipeline for a frame ``[H, W, C]``; other settings are at default."""
    return {
        "image": camera,
        "scale": np.array([scale], np.float32),
        "tile_overlap": np.array([tile_overlap], np.float32),
        "score_threshold": np.array([score_threshold], np.float32),
        "overlap_threshold": np.array([OVERLAP_THRESHOLD], np.float32),
        "max_cells": np.array([max_cells], np.int32),
    }


def _compare(
    frame: str,
    threshold: float,
    answer: Arrays,
    expected: ReferenceCells,
    classes: npt.NDArray[np.int64] | None,
    network_scale: float,
) -> ChainParity:
    """Pair the cells of both sides and compute the differences of every pair.

    ``classes`` are those that the original classifier gives for the chain's own boxes; None where
    the detector gives the classes. ``network_scale`` is in network pixels per frame pixel.
    """
    boxes = answer["boxes"].astype(np.float32)
    if classes is None:
        ids = (answer["class_ids"].astype(np.int64), expected.class_ids)
        ours, theirs, distance = pair_cells(boxes, expected.boxes, *ids)
    else:
        ours, theirs, distance = pair_cells(boxes, expected.boxes)
    alone = np.ones(len(expected.boxes), bool)
    alone[theirs] = False
    if expected.doubtful is not None:
        alone &= ~expected.doubtful
    unmatched = len(boxes) - len(ours) + int(alone.sum())
    if not len(ours):
        return ChainParity(frame, threshold, len(boxes), unmatched, 0.0, 1.0, 1.0)
    shape = (expected.masks.shape[1], expected.masks.shape[2])
    patches = answer["masks"].astype(np.uint8)
    overlaps, least = [], []
    for region, box, index in zip(
        regions(boxes[ours], patches[ours], shape), boxes[ours], theirs, strict=True
    ):
        mask = expected.masks[index]
        overlaps.append(_mask_iou(region, box, mask))
        soft = mask if expected.probabilities is None else expected.probabilities[index]
        held = _holdable(box, mask, soft, patches.shape[-1])
        least.append(min(MASK_IOU, held, _iou_at_distance(mask, OUTLINE_TOLERANCE / network_scale)))
    return ChainParity(
        frame,
        threshold,
        len(boxes),
        unmatched,
        float(distance.max()),
        float(np.mean(overlaps)),
        _agreement(answer, ours, expected.class_ids[theirs] if classes is None else classes[ours]),
        float(np.mean(least)),
    )


def _agreement(answer: Arrays, ours: npt.NDArray[np.intp], theirs: npt.NDArray[np.int64]) -> float:
    """Share of the cells ``ours`` with a clear class that have the class ``theirs``."""
    ranked = np.sort(answer["class_probs"][ours].astype(np.float64), axis=1)
    clear = ranked[:, -1] - (ranked[:, -2] if ranked.shape[1] > 1 else 0) > CLASS_MARGIN
    same = answer["class_ids"][ours] == theirs
    return float(same[clear].mean()) if clear.any() else 1.0


def pair_cells(
    ours: npt.NDArray[Any],
    theirs: npt.NDArray[Any],
    our_ids: npt.NDArray[Any] | None = None,
    their_ids: npt.NDArray[Any] | None = None,
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.float32]]:
    """Indices of boxes that are each other's nearest, and the largest coordinate difference.

    Among equally near boxes, those of the same class are paired if class ids ``[N]`` are given:
    Mask R-CNN may find one cell as two classes.
    """
    if not len(ours) or not len(theirs):
        none = np.zeros(0, np.intp)
        return none, none, np.zeros(0, np.float32)
    distance = np.abs(ours[:, None] - theirs[None]).max(axis=2)
    apart = distance
    if our_ids is not None and their_ids is not None:
        apart = distance + BOX_TOLERANCE / 2 * (our_ids[:, None] != their_ids[None])
    nearest = apart.argmin(axis=1)
    rows = np.arange(len(ours))
    mutual = (apart.argmin(axis=0)[nearest] == rows) & (distance[rows, nearest] <= BOX_TOLERANCE)
    return rows[mutual], nearest[mutual], distance[rows, nearest][mutual]


def _mask_iou(region: Region, box: npt.NDArray[np.float32], theirs: npt.NDArray[np.bool_]) -> float:
    """IoU over the pixels that both sides count as inside the box.

    We count a pixel as inside when its centre is, ultralytics when its index is. The two are half a
    pixel apart, which is a convention and not an error. torchvision widens a box to whole pixels.
    """
    x0, y0, x1, y1 = box
    rows = slice(max(region.rows.start, int(np.ceil(y0))), min(region.rows.stop, int(y1 + 0.5)))
    columns = slice(
        max(region.columns.start, int(np.ceil(x0))), min(region.columns.stop, int(x1 + 0.5))
    )
    window = region.mask[
        rows.start - region.rows.start : rows.stop - region.rows.start,
        columns.start - region.columns.start : columns.stop - region.columns.start,
    ]
    other = theirs[rows, columns]
    union = int((window | other).sum())
    return int((window & other).sum()) / union if union else 1.0


def _holdable(
    box: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_], soft: npt.NDArray[Any], size: int
) -> float:
    """IoU of a mask ``[H, W]`` with itself after a patch of ``size`` pixels has held it.

    A network that has learned little draws masks full of holes, some of them smaller than a pixel
    of a large cell's patch, and is unsure about many pixels. The patch holds ``soft`` in 8 bits:
    the probability 0..1 that the mask is cut from, or the mask itself.
    """
    x, y = (
        box[axis] + (np.arange(size) + 0.5) / size * (box[axis + 2] - box[axis]) - 0.5
        for axis in (0, 1)
    )
    columns, rows = (each.astype(np.float32) for each in np.meshgrid(x, y))
    values = soft.astype(np.float32) * 255
    sampled = cv2.remap(values, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    patch = np.rint(sampled).astype(np.uint8)
    [region] = regions(box[None], patch[None], (mask.shape[0], mask.shape[1]))
    return _mask_iou(region, box, mask)


def _iou_at_distance(mask: npt.NDArray[np.bool_], distance: float) -> float:
    """IoU of a mask ``[H, W]`` with one whose outline is so many pixels away, inside or outside."""
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    length = sum(cv2.arcLength(outline, True) for outline in outlines)
    return float(1 - distance * length / max(1, np.count_nonzero(mask)))


def _hold(figure: ChainParity) -> None:
    least = figure.least_mask_iou - MASK_CHANCE / math.sqrt(max(1, figure.cells))
    rules = (
        (
            figure.unmatched <= _most_unmatched(2 * figure.cells),
            f"{figure.unmatched} cells of either side have none within {BOX_TOLERANCE} px on the "
            f"other; {figure.cells} cells were found",
        ),
        (
            figure.mask_iou >= least,
            f"mean mask IoU {figure.mask_iou:.4f} < {least:.4g}",
        ),
        (figure.same_classes == 1.0, f"classes agree for {figure.same_classes:.1%} of the cells"),
    )
    for holds, text in rules:
        if not holds:
            raise ParityError(
                f"frame {figure.frame} at score threshold {figure.score_threshold}: {text}. The "
                "graphs must find what the library that trained the network finds, so nothing is "
                "installed; name this frame in a report, or leave it out with --frames."
            )


def _most_unmatched(both_sides: int) -> int:
    """Number of ``both_sides`` cells that may have no partner, always at least one per side.

    It is the share plus two standard deviations of such rare events (Poisson). Among a few dozen
    cells at a low threshold, one frame in twenty would exceed the share by chance.
    """
    expected = UNMATCHED * both_sides
    return max(2, round(expected + 2 * math.sqrt(expected)))
