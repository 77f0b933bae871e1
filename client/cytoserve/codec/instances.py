"""Requests to instance pipelines, and their answers: cells."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoserve import contract
from cytoserve.cells import Cells
from cytoserve.codec.tensors import check_rules, decode_tensors, encode_scalar, frame_shape
from cytoserve.frames import request_limits, to_wire
from cytoserve.settings import Settings
from cytoserve.transport import Request, Tensors


def encode_request(
    image: NDArray[np.generic],
    pipeline: contract.Pipeline,
    settings: Settings = Settings(),  # noqa: B008  # frozen
    labels: bool = False,
) -> Request:
    """Return the request for one frame; ``labels`` asks the server to paint the label image.

    Raises:
        UnsupportedImage, FrameTooLarge: see :func:`cytoserve.frames.to_wire`.
    """
    on_request = pipeline.on_request if labels else ()
    scalars = {
        contract.SCORE_THRESHOLD_INPUT: settings.score_threshold,
        contract.OVERLAP_THRESHOLD_INPUT: settings.overlap_threshold,
        contract.MAX_CELLS_INPUT: settings.max_cells,
    }
    return Request(
        model=pipeline.name,
        inputs={
            contract.IMAGE.name: to_wire(image, request_limits(pipeline)),
            **{tensor.name: encode_scalar(value, tensor) for tensor, value in scalars.items()},
        },
        outputs=tuple(tensor.name for tensor in (*pipeline.outputs, *on_request)),
    )


def decode_request(request: Request) -> tuple[NDArray[np.uint16], Settings]:
    """Return frame and settings of a request: what a server reads from it."""
    return request.inputs[contract.IMAGE.name], Settings(
        float(request.inputs[contract.SCORE_THRESHOLD_INPUT.name][0]),
        float(request.inputs[contract.OVERLAP_THRESHOLD_INPUT.name][0]),
        int(request.inputs[contract.MAX_CELLS_INPUT.name][0]),
    )


def encode_answer(cells: Cells, request: Request) -> Tensors:
    """Return the tensors that a server answers: those that the request names."""
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


def decode_answer(answer: Tensors, request: Request, class_names: tuple[str, ...]) -> Cells:
    """Return the cells of an answer to ``request``, checked against the contract.

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
    )
    _check_values(cells, request.model)
    return cells


def class_count(answer: Tensors) -> int | None:
    """Return K, the classes that an answer tells apart; None where it does not say."""
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
