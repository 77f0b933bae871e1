"""Frame to request, answer to cells, and back: pure functions, the same for every transport."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoserve import contract
from cytoserve.cells import Cells
from cytoserve.errors import AnswerMalformed
from cytoserve.frames import to_wire
from cytoserve.settings import Settings
from cytoserve.transport import Request, Tensors

_DTYPES = {"FP32": np.float32, "INT32": np.int32, "UINT8": np.uint8, "UINT16": np.uint16}


@dataclass(frozen=True)
class Card:
    """What a pipeline says of itself.

    Attributes:
        pipeline: its name.
        class_names: the K classes, in the order of ``class_probs``.
        models: for every exported step its ``version`` and ``sha256``.
        recipes: how the networks were trained.
    """

    pipeline: str
    class_names: tuple[str, ...]
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    recipes: dict[str, Any] = field(default_factory=dict)

    def hashes(self) -> dict[str, str]:
        """Return the sha256 of every exported step."""
        return {name: str(model.get("sha256", "")) for name, model in self.models.items()}


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
    return Request(
        model=pipeline.name,
        inputs={
            contract.IMAGE.name: to_wire(image),
            contract.SCORE_THRESHOLD_INPUT.name: np.array([settings.score_threshold], np.float32),
            contract.OVERLAP_THRESHOLD_INPUT.name: np.array(
                [settings.overlap_threshold], np.float32
            ),
            contract.MAX_CELLS_INPUT.name: np.array([settings.max_cells], np.int32),
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
    pipeline = contract.PIPELINES[request.model]
    tensors = {
        tensor.name: _checked(answer, tensor, request.model)
        for tensor in (*pipeline.outputs, *pipeline.on_request)
        if tensor.name in request.outputs
    }
    height, width = request.inputs[contract.IMAGE.name].shape[:2]
    cells = Cells(
        boxes=tensors[contract.BOXES.name],
        scores=tensors[contract.SCORES.name],
        class_ids=tensors[contract.CLASS_IDS.name],
        class_probs=tensors[contract.CLASS_PROBS.name],
        patches=tensors[contract.MASKS.name],
        frame_shape=(height, width),
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


def encode_card_request(pipeline: contract.Pipeline) -> Request:
    """Return the request for a pipeline's card."""
    page = np.zeros(contract.CARD_INPUT.dims, np.int64)
    return Request(pipeline.card, {contract.CARD_INPUT.name: page}, (contract.CARD_OUTPUT.name,))


def encode_card(card: Card) -> Tensors:
    """Return the tensor that a server answers to a card request."""
    text = json.dumps(
        {
            "pipeline": card.pipeline,
            "class_names": card.class_names,
            "models": card.models,
            "recipes": card.recipes,
        }
    )
    return {contract.CARD_OUTPUT.name: np.array([text.encode()], dtype=np.object_)}


def decode_card(answer: Tensors, pipeline: contract.Pipeline) -> Card:
    """Return the card of ``pipeline``.

    Raises:
        AnswerMalformed: no JSON, or not of the form that the contract gives.
    """
    try:
        values = json.loads(answer[contract.CARD_OUTPUT.name].item())
        class_names = tuple(values["class_names"])
        models, recipes = dict(values["models"]), dict(values.get("recipes", {}))
        if not (class_names and all(isinstance(name, str) for name in class_names)):
            raise ValueError(f"class_names {class_names!r}")
        if not all(isinstance(model, dict) for model in models.values()):
            raise ValueError(f"models {models!r}")
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        wanted = "a JSON object with class_names and models"
        raise _malformed(pipeline.card, wanted, repr(error)) from error
    return Card(str(values.get("pipeline", pipeline.name)), class_names, models, recipes)


def _checked(answer: Tensors, tensor: contract.Tensor, model: str) -> NDArray[Any]:
    """Check one tensor's dtype and dims."""
    value = answer.get(tensor.name)
    if value is None:
        raise _malformed(model, f"output {tensor.name}", "an answer without it")
    fits = len(value.shape) == len(tensor.dims) and all(
        wanted in (-1, given) for wanted, given in zip(tensor.dims, value.shape, strict=True)
    )
    if value.dtype != _DTYPES[tensor.dtype] or not fits:
        raise _malformed(
            model,
            f"{tensor.name} {tensor.dtype} {list(tensor.dims)}",
            f"{value.dtype} {list(value.shape)}",
        )
    return value


def _check_values(cells: Cells, model: str) -> None:
    """Check what the tensors say together."""
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
    for rule, holds in rules.items():
        if not holds:
            given = f"{rows} rows, class_probs {cells.class_probs.shape}, found {cells.found}"
            raise _malformed(model, rule, given)


def _malformed(model: str, wanted: str, given: str) -> AnswerMalformed:
    return AnswerMalformed(
        f"{model} must answer {wanted}; given: {given}. Client and server may be of different "
        "versions: compare them with `cytoserve doctor`, and export the pipeline again."
    )
