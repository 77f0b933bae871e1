"""Encode requests to instance pipelines, and decode their answers: cells."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoserve import contract
from cytoserve.cells import Cells
from cytoserve.codec.tensors import check_rules, decode_tensors, encode_scalar, frame_shape
from cytoserve.frames import request_limits, to_wire
from cytoserve.operating_point import OperatingPoint
from cytoserve.transport import Request, Tensors


def encode_request(
    image: NDArray[np.generic],
    pipeline: contract.Pipeline,
    point: OperatingPoint,
    labels: bool = False,
) -> Request:
    """Return the request for one frame, or for one window of a larger frame.

    Args:
        image: see :func:`cytoserve.frames.to_wire`.
        pipeline: an instance pipeline.
        point: the numbers of the request.
        labels: whether the server also paints the label image.

    Raises:
        UnsupportedImage, FrameTooLarge: see :func:`cytoserve.frames.to_wire`.
    """
    on_request = pipeline.on_request if labels else ()
    scalars = {
        contract.SCALE_INPUT: point.network_scale,
        contract.TILE_OVERLAP_INPUT: point.tile_overlap,
        contract.SCORE_THRESHOLD_INPUT: point.score_threshold,
        contract.OVERLAP_THRESHOLD_INPUT: point.overlap_threshold,
        contract.MAX_CELLS_INPUT: point.max_cells,
    }
    return Request(
        model=pipeline.name,
        inputs={
            contract.IMAGE.name: to_wire(image, request_limits(pipeline)),
            **{tensor.name: encode_scalar(value, tensor) for tensor, value in scalars.items()},
        },
        outputs=tuple(tensor.name for tensor in (*pipeline.outputs, *on_request)),
    )


def decode_request(request: Request) -> tuple[NDArray[np.uint16], OperatingPoint]:
    """Return the frame and numbers that a server reads from a request.

    A request does not contain the scale of the training frames, so ``frame_scale`` is 1.
    """

    def number(tensor: contract.Tensor) -> Any:
        return request.inputs[tensor.name].item()

    point = OperatingPoint(
        network_scale=number(contract.SCALE_INPUT),
        tile_overlap=number(contract.TILE_OVERLAP_INPUT),
        score_threshold=number(contract.SCORE_THRESHOLD_INPUT),
        overlap_threshold=number(contract.OVERLAP_THRESHOLD_INPUT),
        max_cells=number(contract.MAX_CELLS_INPUT),
        frame_scale=1.0,
    )
    return request.inputs[contract.IMAGE.name], point


def encode_answer(cells: Cells, request: Request) -> Tensors:
    """Return the tensors of a server's answer: those that the request names."""
    tensors: dict[str, NDArray[Any]] = {
        contract.BOXES.name: cells.boxes,
        contract.SCORES.name: cells.scores,
        contract.CLASS_IDS.name: cells.class_ids,
        contract.CLASS_PROBS.name: cells.class_probs,
        contract.MASKS.name: cells.patches,
        contract.CELLS_FOUND.name: np.array([cells.found], np.int32),
    }
    if contract.LABELS.name in request.outputs:
        tensors[contract.LABELS.name] = cells.label_image()
    return {name: tensors[name] for name in request.outputs}


def decode_answer(
    answer: Tensors, request: Request, class_names: tuple[str, ...], point: OperatingPoint
) -> Cells:
    """Return the cells in an answer to ``request``, checked against the contract.

    ``point`` holds the numbers of the request, before their conversion to FP32.

    Raises:
        AnswerMalformed: a tensor is missing, has a wrong dtype or shape, or impossible values.
    """
    tensors = decode_tensors(answer, request)
    cells = Cells(
        boxes=tensors[contract.BOXES.name],
        scores=tensors[contract.SCORES.name],
        class_ids=tensors[contract.CLASS_IDS.name],
        class_probs=tensors[contract.CLASS_PROBS.name],
        patches=tensors[contract.MASKS.name],
        frame_shape=frame_shape(request),
        class_names=class_names,
        found=int(tensors[contract.CELLS_FOUND.name][0]),
        labels=tensors.get(contract.LABELS.name),
        scale=point.frame_scale,
        score_threshold=point.score_threshold,
    )
    _check_values(cells, request.model)
    return cells


def class_count(answer: Tensors) -> int | None:
    """Return K, the number of classes in an answer; None if the answer does not show it."""
    probs = answer.get(contract.CLASS_PROBS.name)
    return None if probs is None or probs.ndim != 2 else int(probs.shape[1])


def _check_values(cells: Cells, model: str) -> None:
    number, classes = len(cells.scores), len(cells.class_names)
    arrays = (cells.boxes, cells.class_ids, cells.class_probs, cells.patches)
    rows = [len(array) for array in arrays]
    rules = {
        f"one row a cell, {number} cells": rows == [number] * len(rows),
        f"class_probs of {classes} classes": cells.class_probs.shape[1] == classes,
        "finite boxes, scores and probabilities": all(
            np.isfinite(array).all() for array in (cells.boxes, cells.scores, cells.class_probs)
        ),
        "scores in descending order": bool((np.diff(cells.scores) <= 0).all()),
        f"class_ids from 0 to {classes - 1}": bool(
            ((cells.class_ids >= 0) & (cells.class_ids < classes)).all()
        ),
        "cells_found of at least the cells answered": cells.found >= number,
        "labels as large as the frame": cells.labels is None
        or cells.labels.shape == cells.frame_shape,
    }
    given = f"{rows} rows, class_probs {cells.class_probs.shape}, found {cells.found}"
    check_rules(rules, model, given)
