"""Encode requests to prompted pipelines, and decode their answers: one cell per prompt."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoserve import contract
from cytoserve.cells import Cells
from cytoserve.codec.tensors import check_rules, decode_tensors, frame_shape
from cytoserve.errors import InvalidPrompts
from cytoserve.frames import check_frame, request_limits, to_wire
from cytoserve.prompts import BACKGROUND, FOREGROUND, NONE, Prompts
from cytoserve.transport import Request, Tensors

_CORNERS = [contract.POINT_LABELS[name] for name in ("box_start", "box_end")]


def encode_request(
    image: NDArray[np.generic], pipeline: contract.Pipeline, prompts: Prompts
) -> Request:
    """Return the request for one frame and its prompts.

    Every row of points has the form that SAM was trained on (Kirillov et al. 2023, and
    ``SamPredictor``): the clicks, then the two corners of the box, or one point of label ``none``
    if there is no box. Shorter rows are padded with ``none``.

    Raises:
        UnsupportedImage, FrameTooLarge: see :func:`cytoserve.frames.to_wire`.
        InvalidPrompts: no prompts, or a box or a point outside the frame.
    """
    if not isinstance(prompts, Prompts):
        raise InvalidPrompts(
            f"Prompts are cytoserve.Prompts; given: {type(prompts).__name__}. Pass "
            "Prompts(boxes=[(x0, y0, x1, y1)]) or Prompts(points=[[(x, y)]])."
        )
    limits = request_limits(pipeline)
    prompts.check_for(check_frame(image, limits)[:2])
    points, labels = _rows(prompts)
    coarse_boxes = prompts.boxes if len(prompts.masks) else np.empty((0, 4), np.float32)
    return Request(
        model=pipeline.name,
        inputs={
            contract.IMAGE.name: to_wire(image, limits),
            contract.PROMPT_POINTS.name: points,
            contract.PROMPT_LABELS.name: labels,
            contract.COARSE_MASKS.name: prompts.masks,
            contract.COARSE_BOXES.name: coarse_boxes,
        },
        outputs=tuple(tensor.name for tensor in pipeline.outputs),
    )


def decode_request(request: Request) -> tuple[NDArray[np.uint16], Prompts]:
    """Return the frame and prompts that a server reads from a request."""
    points = request.inputs[contract.PROMPT_POINTS.name]
    labels = request.inputs[contract.PROMPT_LABELS.name]
    masks = request.inputs[contract.COARSE_MASKS.name]
    boxes, clicks, kinds = [], [], []
    for places, meanings in zip(points, labels, strict=True):
        corners = places[np.isin(meanings, _CORNERS)]
        clicked = np.isin(meanings, (BACKGROUND, FOREGROUND))
        boxes.append(corners.ravel() if len(corners) else None)
        clicks.append(places[clicked])
        kinds.append(meanings[clicked])
    prompts = Prompts(boxes, clicks, kinds, masks if len(masks) else None)
    return request.inputs[contract.IMAGE.name], prompts


def encode_answer(cells: Cells, request: Request) -> Tensors:
    """Return the tensors of a server's answer."""
    tensors: dict[str, NDArray[Any]] = {
        contract.PROMPT_BOXES.name: cells.boxes,
        contract.PROMPT_MASKS.name: cells.patches,
        contract.QUALITIES.name: cells.scores,
    }
    return {name: tensors[name] for name in request.outputs}


def decode_answer(answer: Tensors, request: Request, class_names: tuple[str, ...]) -> Cells:
    """Return the checked cells in an answer to ``request``, in the order of its prompts.

    Raises:
        AnswerMalformed: a tensor is missing, has a wrong dtype or shape, or impossible values.
    """
    tensors = decode_tensors(answer, request)
    boxes, patches, qualities = (
        tensors[tensor.name]
        for tensor in (contract.PROMPT_BOXES, contract.PROMPT_MASKS, contract.QUALITIES)
    )
    number = len(request.inputs[contract.PROMPT_POINTS.name])
    rows = [len(array) for array in (boxes, patches, qualities)]
    check_rules(
        {
            f"one row a prompt, {number} prompts": rows == [number] * len(rows),
            "finite boxes and qualities": bool(
                np.isfinite(boxes).all() and np.isfinite(qualities).all()
            ),
        },
        request.model,
        f"{rows} rows",
    )
    return Cells(
        boxes=boxes,
        scores=qualities,
        class_ids=np.zeros(number, np.int32),
        class_probs=np.ones((number, 1), np.float32),
        patches=patches,
        frame_shape=frame_shape(request),
        class_names=class_names,
        found=number,
    )


def _rows(prompts: Prompts) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Return points ``[N, P, 2]`` and labels ``[N, P]`` as they are sent."""
    counts = prompts.point_counts
    needed = counts + np.where(prompts.has_box, len(_CORNERS), 1)
    points = np.zeros((len(prompts), int(needed.max()), 2), np.float32)
    labels = np.full(points.shape[:2], NONE, np.int32)
    for row, count in enumerate(counts):
        points[row, :count] = prompts.points[row, :count]
        labels[row, :count] = prompts.point_labels[row, :count]
        if prompts.has_box[row]:
            corners = slice(count, count + len(_CORNERS))
            points[row, corners] = prompts.boxes[row].reshape(2, 2)
            labels[row, corners] = _CORNERS
    return points, labels
