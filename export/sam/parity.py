"""Compare the chains of SAM's pipelines with `SamPredictor`, prompt by prompt, on whole frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from segment_anything.modeling import Sam

from cytoserve.contract import (
    BOXES,
    COARSE_BOXES,
    COARSE_MASKS,
    IMAGE,
    MASK_SIZE,
    POINT_LABELS,
    PROMPT_BOXES,
    PROMPT_LABELS,
    PROMPT_MASKS,
    PROMPT_POINTS,
    QUALITIES,
    SAM_MASK_SIZE,
    SAM_MASKS,
    SCORE_THRESHOLD,
    SCORES,
)
from cytoserve.patches import regions
from export.parity.chain import Arrays, Chain
from export.parity.instances import instance_inputs, sized_views
from export.parity.steps import ParityError
from export.sam.network import BELOW_HALF
from export.sam.reference import Candidates, PredictorSam, Prompt
from training.checkpoint import LearnedScale

MASK_IOU = 0.99
"""Minimum mean IoU of the masks on a frame."""

LARGE = 2 * SAM_MASK_SIZE
"""Side of a mask's box, in frame pixels, beyond which a patch is too coarse for its details.

In larger boxes, the pixels within a patch pixel of the border count for neither side."""

LOGIT_MARGIN = 0.1
"""Distance of a pixel's logit from 0 below which the pixel may be called either.

Pillow's resize rounds some pixels one grey level differently from ours."""

QUALITY_TOLERANCE = 1e-3
"""Largest deviation of a predicted quality.

Masks whose qualities are closer than this may take each other's place."""

HALF_TOLERANCE = 0.02
"""Tolerance of a pipeline with an encoder in float16.

A quality may deviate by this much, and a mean IoU may be lower by this much."""

PROMPTS = 32
"""Maximum number of prompts per frame that `SamPredictor` is given, one by one."""

DETECTED_BOXES = "detected_boxes"
"""Name of Mask R-CNN's boxes inside the ensemble `maskrcnn_sam`."""

THRESHOLDS = (0.5, SCORE_THRESHOLD)

Frame = npt.NDArray[np.generic]


@dataclass(frozen=True)
class SamParity:
    """Parity figures of one frame and one kind of prompts."""

    frame: str
    prompts: str
    count: int
    empty: int
    """Number of prompts that both sides answer with an empty mask."""
    mask_iou: float
    """Mean IoU of the masks in boxes up to `LARGE`; 1 where there is none."""
    large_mask_iou: float
    """Mean IoU of the masks in larger boxes, border pixels ignored; 1 where there is none."""
    quality_deviation: float
    """Largest deviation of a predicted quality."""


def check_prompts(
    chain: Chain, sam: Sam, frames: Mapping[str, Frame], half: bool = False
) -> list[SamParity]:
    """Compare `sam_prompt` with `SamPredictor` on boxes, points and coarse masks.

    Args:
        chain: the graphs of pipeline `sam_prompt`.
        sam: the same network in torch.
        frames: name -> camera frame ``[H, W]`` or ``[H, W, C]``.
        half: whether the chain's encoder computes in float16.

    Raises:
        ParityError: a frame's figures are beyond tolerance.
    """
    reference = PredictorSam(sam)
    names = [tensor.name for tensor in (PROMPT_BOXES, PROMPT_MASKS, QUALITIES)]
    figures = []
    for name, image in frames.items():
        reference.set_frame(image)
        camera = np.atleast_3d(image).astype(np.uint16)
        for kind, prompts in sample_prompts(camera.shape[0], camera.shape[1]).items():
            answer = chain.run({IMAGE.name: camera, **prompt_inputs(prompts)}, names)
            candidates = [reference.candidates(prompt) for prompt in prompts]
            figures.append(_compare(name, kind, answer, candidates, camera.shape[:2], half))
    return figures


def check_cells(
    chain: Chain,
    sam: Sam,
    frames: Mapping[str, Frame],
    scale: LearnedScale,
    half: bool = False,
) -> list[SamParity]:
    """Compare `maskrcnn_sam` with a `SamPredictor` that gets the boxes of its Mask R-CNN.

    Mask R-CNN itself is compared when the pipeline `maskrcnn` is exported. ``scale`` is the scale
    at which it sees frames. The first frame is compared once more, extended into several tiles of
    SAM. For the other arguments, see :func:`check_prompts`.

    Raises:
        ParityError: a frame's figures are beyond tolerance, or the cells are not a sorted choice of
            SAM's masks.
    """
    reference = PredictorSam(sam)
    inner = [PROMPT_BOXES.name, PROMPT_MASKS.name, QUALITIES.name, DETECTED_BOXES]
    figures = []
    overlap = scale.largest_cell_px * scale.network_scale
    for name, image, network_scale, thresholds in sized_views(
        frames, scale, sam.image_encoder.img_size, THRESHOLDS
    ):
        camera = np.atleast_3d(image).astype(np.uint16)
        for threshold in thresholds:
            answer = chain.run(
                instance_inputs(camera, threshold, scale=network_scale, tile_overlap=overlap),
                [*inner, BOXES.name, SAM_MASKS.name, SCORES.name],
            )
            kind = f"boxes scored above {threshold:g}"
            _check_order(name, kind, answer)
            count = len(answer[DETECTED_BOXES])
            asked = np.unique(np.linspace(0, count - 1, PROMPTS).astype(int)) if count else []
            boxes = answer[DETECTED_BOXES].astype(np.float32)[asked]
            candidates = reference.in_tiles(image, boxes, network_scale, overlap)
            some = {key: answer[key][asked] for key in inner}
            figures.append(_compare(name, kind, some, candidates, camera.shape[:2], half))
    return figures


def sample_prompts(height: int, width: int) -> dict[str, list[Prompt]]:
    """Prompts of every kind, spread over a frame, some of them across its edge."""
    random = np.random.default_rng(0)
    boxes = []
    for share in (0.05, 0.15, 0.4):
        side = max(4.0, share * min(height, width))
        for _ in range(4):
            corner = random.uniform(-0.5, 1, 2) * side / 2 + random.uniform(0, 1, 2) * (
                max(width - side, 1),
                max(height - side, 1),
            )
            boxes.append(np.array([*corner, *(corner + side)], np.float32))
    points = [
        (
            np.stack([box.reshape(2, 2).mean(axis=0), box[[0, 3]]])[: 1 + index % 2],
            np.array([1, 0], np.int32)[: 1 + index % 2],
        )
        for index, box in enumerate(boxes)
    ]
    steps = (np.arange(MASK_SIZE) + 0.5) / MASK_SIZE - 0.5
    bump = 255 * np.clip(1.5 - 3 * np.hypot(steps[:, None], steps), 0, 1)
    coarse = np.round(bump).astype(np.uint8)
    return {
        "boxes": [Prompt(box=box) for box in boxes],
        "points": [Prompt(points=p, point_labels=labels) for p, labels in points],
        "boxes and points": [
            Prompt(box=box, points=p, point_labels=labels)
            for box, (p, labels) in zip(boxes, points, strict=True)
        ],
        "boxes and coarse masks": [
            Prompt(box=box, coarse_mask=coarse, coarse_box=box) for box in boxes
        ],
    }


def prompt_inputs(prompts: Sequence[Prompt]) -> Arrays:
    """Prompts as the tensors of `sam_prompt`; all of them have a coarse mask, or none has."""
    rows = [_points(prompt) for prompt in prompts]
    longest = max((len(labels) for _, labels in rows), default=0)
    points = np.zeros((len(rows), longest, 2), np.float32)
    labels = np.full((len(rows), longest), POINT_LABELS["none"], np.int32)
    for index, (own_points, own_labels) in enumerate(rows):
        points[index, : len(own_points)], labels[index, : len(own_labels)] = own_points, own_labels
    masks = [prompt.coarse_mask for prompt in prompts if prompt.coarse_mask is not None]
    boxes = [prompt.coarse_box for prompt in prompts if prompt.coarse_box is not None]
    return {
        PROMPT_POINTS.name: points,
        PROMPT_LABELS.name: labels,
        COARSE_MASKS.name: np.array(masks, np.uint8).reshape(-1, MASK_SIZE, MASK_SIZE),
        COARSE_BOXES.name: np.array(boxes, np.float32).reshape(-1, 4),
    }


def _points(prompt: Prompt) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """All points of a prompt, those of its box included, and their labels."""
    points, labels = [np.zeros((0, 2), np.float32)], [np.zeros(0, np.int32)]
    if prompt.points is not None and prompt.point_labels is not None:
        points.append(prompt.points)
        labels.append(prompt.point_labels)
    if prompt.box is not None:
        points.append(prompt.box.reshape(2, 2))
        corners = [POINT_LABELS["box_start"], POINT_LABELS["box_end"]]
        labels.append(np.array(corners, np.int32))
    return np.concatenate(points), np.concatenate(labels)


def _check_order(frame: str, kind: str, answer: Arrays) -> None:
    """Check that the cells are answers to prompts, best quality first, and which are left out.

    A prompt's answer is left out for a better one of the same cell by the rule of
    `training.postprocessing`, written here a second time: whatever is left out must be
    empty or lie on a cell that stays.
    """
    qualities = answer[QUALITIES.name].astype(np.float64)
    order = np.argsort(-qualities, kind="stable")
    boxes, masks = answer[PROMPT_BOXES.name][order], answer[PROMPT_MASKS.name][order]
    cell, left_out = 0, []
    for place, index in enumerate(order):
        same = cell < len(answer[SCORES.name]) and all(
            np.array_equal(answer[ours][cell], theirs)
            for ours, theirs in (
                (SCORES.name, answer[QUALITIES.name][index]),
                (BOXES.name, boxes[place]),
                (SAM_MASKS.name, masks[place]),
            )
        )
        cell += same
        if not same:
            left_out.append(place)
    if cell < len(answer[SCORES.name]):
        raise ParityError(
            f"frame {frame}, {kind}: the cells are not answers to prompts sorted by "
            f"'{QUALITIES.name}'."
        )
    for place in left_out:
        if (masks[place] > BELOW_HALF).any() and not _touches(
            boxes[place], answer[BOXES.name].astype(np.float32)
        ):
            raise ParityError(
                f"frame {frame}, {kind}: the answer to a prompt is left out, yet no cell lies "
                "there."
            )


def _touches(box: npt.NDArray[np.generic], boxes: npt.NDArray[np.float32]) -> bool:
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    return bool((high > low).all(axis=1).any())


def _compare(
    frame: str,
    kind: str,
    answer: Arrays,
    candidates: Sequence[Candidates],
    shape: tuple[int, ...],
    half: bool,
) -> SamParity:
    """Compare the answers to prompts, in their order, and check the tolerances."""
    tolerance = HALF_TOLERANCE if half else QUALITY_TOLERANCE
    boxes = answer[PROMPT_BOXES.name].astype(np.float32)
    patches = answer[PROMPT_MASKS.name].astype(np.uint8)
    qualities = answer[QUALITIES.name].astype(np.float64)
    empty, deviations = 0, [0.0]
    overlaps: dict[bool, list[float]] = {False: [], True: []}
    height, width = shape[:2]
    placed = regions(boxes, patches, (height, width))
    for region, box, quality, expected in zip(placed, boxes, qualities, candidates, strict=True):
        best = float(expected.qualities.max())
        deviations.append(abs(quality - best))
        ours = np.zeros((height, width), bool)
        ours[region.rows, region.columns] = region.mask
        theirs = expected.logits[expected.qualities >= best - tolerance]
        if not ours.any() and (theirs <= LOGIT_MARGIN).all(axis=(1, 2)).any():
            empty += 1
            continue
        side = max(box[2] - box[0], box[3] - box[1])
        border = int(np.ceil(side / SAM_MASK_SIZE)) if side > LARGE else 0
        overlaps[side > LARGE].append(max(_iou(ours, logits, border) for logits in theirs))
    figure = SamParity(
        frame,
        kind,
        len(boxes),
        empty,
        float(np.mean(overlaps[False])) if overlaps[False] else 1.0,
        float(np.mean(overlaps[True])) if overlaps[True] else 1.0,
        max(deviations),
    )
    _hold(figure, tolerance, HALF_TOLERANCE if half else 0.0)
    return figure


def _iou(ours: npt.NDArray[np.bool_], logits: npt.NDArray[np.float32], border: int) -> float:
    """IoU with the mask of ``logits``, without the pixels that count for neither side.

    These are pixels whose logit is within `LOGIT_MARGIN` of 0 and, if ``border`` is above 0, pixels
    within ``border`` pixels of the mask's border.
    """
    theirs = logits > 0
    counted = np.abs(logits) > LOGIT_MARGIN
    if border:
        kernel = np.ones((2 * border + 1, 2 * border + 1), np.uint8)
        counted &= cv2.erode(theirs.astype(np.uint8), kernel) == cv2.dilate(
            theirs.astype(np.uint8), kernel
        )
    union = int(((ours | theirs) & counted).sum())
    return int((ours & theirs & counted).sum()) / union if union else 1.0


def _hold(figure: SamParity, quality_tolerance: float, slack: float) -> None:
    for holds, text in (
        (
            figure.mask_iou >= MASK_IOU - slack,
            f"mean mask IoU {figure.mask_iou:.4f} < {MASK_IOU - slack:g}",
        ),
        (
            figure.large_mask_iou >= MASK_IOU - slack,
            f"mean IoU of large masks {figure.large_mask_iou:.4f} < {MASK_IOU - slack:g}",
        ),
        (
            figure.quality_deviation <= quality_tolerance,
            f"a quality deviates by {figure.quality_deviation:.2g} > {quality_tolerance:g}",
        ),
    ):
        if not holds:
            raise ParityError(f"frame {figure.frame}, {figure.prompts}: {text}.")
