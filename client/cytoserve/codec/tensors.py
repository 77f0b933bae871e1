"""Checks of every answer: the dtypes and dims of its tensors, and their consistency."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoserve import contract
from cytoserve.errors import AnswerMalformed
from cytoserve.transport import Request, Tensors

_DTYPES = {"FP32": np.float32, "INT32": np.int32, "UINT8": np.uint8, "UINT16": np.uint16}


def encode_scalar(value: float, tensor: contract.Tensor) -> NDArray[Any]:
    """Return a number as a tensor with the dtype and dims that the contract gives."""
    return np.full(tensor.dims, value, _DTYPES[tensor.dtype])


def frame_shape(request: Request) -> tuple[int, int]:
    """Return ``(H, W)`` of the frame that a request carries."""
    height, width = request.inputs[contract.IMAGE.name].shape[:2]
    return height, width


def decode_tensors(answer: Tensors, request: Request) -> dict[str, NDArray[Any]]:
    """Return the outputs that ``request`` names; check dtype and dims against the contract.

    Raises:
        AnswerMalformed: a tensor is missing, or has a wrong dtype or shape.
    """
    pipeline = contract.PIPELINES[request.model]
    return {
        tensor.name: _checked(answer, tensor, request.model)
        for tensor in (*pipeline.outputs, *pipeline.on_request)
        if tensor.name in request.outputs
    }


def check_rules(rules: Mapping[str, bool], model: str, given: str) -> None:
    """Check that the tensors of an answer are consistent.

    Args:
        rules: rule in words -> whether it holds.
        model: the model that answered.
        given: the answer in words.

    Raises:
        AnswerMalformed: a rule does not hold; the message names the first.
    """
    for rule, holds in rules.items():
        if not holds:
            raise malformed(model, rule, given)


def malformed(model: str, wanted: str, given: str) -> AnswerMalformed:
    """Return the error for an answer that breaks the contract."""
    return AnswerMalformed(
        f"{model} must answer {wanted}; given: {given}. Client and server may be of different "
        "versions: compare them with `cytoserve doctor`, and export the pipeline again."
    )


def _checked(answer: Tensors, tensor: contract.Tensor, model: str) -> NDArray[Any]:
    """Check one tensor's dtype and dims."""
    value = answer.get(tensor.name)
    if value is None:
        raise malformed(model, f"output {tensor.name}", "an answer without it")
    fits = len(value.shape) == len(tensor.dims) and all(
        wanted in (-1, given) for wanted, given in zip(tensor.dims, value.shape, strict=True)
    )
    if value.dtype != _DTYPES[tensor.dtype] or not fits:
        raise malformed(
            model,
            f"{tensor.name} {tensor.dtype} {list(tensor.dims)}",
            f"{value.dtype} {list(value.shape)}",
        )
    return value
