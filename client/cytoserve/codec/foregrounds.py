"""Encode requests to semantic pipelines, and decode their answers: foregrounds."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoserve import contract
from cytoserve.codec.tensors import check_rules, decode_tensors, encode_scalar, frame_shape
from cytoserve.foreground import Foreground, foreground_mask
from cytoserve.frames import request_limits, to_wire
from cytoserve.settings import ForegroundSettings
from cytoserve.transport import Request, Tensors


def encode_request(
    image: NDArray[np.generic],
    pipeline: contract.Pipeline,
    settings: ForegroundSettings,
) -> Request:
    """Return the request for one frame, or for one window of a larger frame.

    ``settings`` must contain a threshold: the caller's, or that of the card.

    Raises:
        UnsupportedImage, FrameTooLarge: see :func:`cytoserve.frames.to_wire`.
        InvalidSetting: a white level was given for a pipeline that takes none.
    """
    settings.check_for(pipeline)
    inputs = {contract.IMAGE.name: to_wire(image, request_limits(pipeline))}
    scalars = {contract.PROBABILITY_THRESHOLD_INPUT: settings.known_threshold}
    if contract.WHITE_LEVEL_INPUT in pipeline.inputs:
        scalars[contract.WHITE_LEVEL_INPUT] = settings.wire_white_level(image.dtype)
    return Request(
        model=pipeline.name,
        inputs=inputs
        | {tensor.name: encode_scalar(value, tensor) for tensor, value in scalars.items()},
        outputs=tuple(tensor.name for tensor in pipeline.outputs),
    )


def decode_request(request: Request) -> tuple[NDArray[np.uint16], ForegroundSettings]:
    """Return the frame and settings that a server reads from a request.

    The white level is left out: on the wire it has different units from the setting, and may be
    larger.
    """
    threshold = request.inputs[contract.PROBABILITY_THRESHOLD_INPUT.name]
    return request.inputs[contract.IMAGE.name], ForegroundSettings(float(threshold[0]))


def encode_answer(foreground: Foreground, request: Request) -> Tensors:
    """Return the tensors of a server's answer: those that the request names.

    A pipeline with centres answers with zero centres if ``foreground`` has none.
    """
    tensors: dict[str, NDArray[Any]] = {
        contract.PROBABILITY.name: foreground.probability,
        contract.MASK.name: foreground.mask.astype(np.uint8),
        contract.CENTRES.name: np.empty((0, 2), np.float32),
        contract.CENTRE_SCORES.name: np.empty(0, np.float32),
    }
    if foreground.centres is not None and foreground.centre_scores is not None:
        tensors[contract.CENTRES.name] = foreground.centres
        tensors[contract.CENTRE_SCORES.name] = foreground.centre_scores
    return {name: tensors[name] for name in request.outputs}


def decode_answer(
    answer: Tensors, request: Request, class_name: str, threshold: float
) -> Foreground:
    """Return the foreground in an answer to ``request``, checked against the contract.

    ``threshold`` is the threshold of the request, before its conversion to FP32.

    Raises:
        AnswerMalformed: a tensor is missing, has a wrong dtype or shape, or impossible values.
    """
    tensors = decode_tensors(answer, request)
    probability, mask = tensors[contract.PROBABILITY.name], tensors[contract.MASK.name]
    centres = tensors.get(contract.CENTRES.name)
    scores = tensors.get(contract.CENTRE_SCORES.name)
    shape = frame_shape(request)
    given = f"probability {probability.shape}, mask {mask.shape}"
    check_rules(
        {
            f"a probability as large as the frame, {shape}": probability.shape == shape,
            f"a mask as large as the frame, {shape}": mask.shape == shape,
        },
        request.model,
        given,
    )
    expected = foreground_mask(probability, threshold)
    check_rules(
        {
            f"a mask of 1 where the probability is at least {threshold:g}, else 0": bool(
                (mask == expected).all()
            )
        },
        request.model,
        f"{given}, the mask from {mask.min()} to {mask.max()}",
    )
    if centres is not None and scores is not None:
        _check_centres(centres, scores, shape, request.model)
    return Foreground(probability, expected, class_name, threshold, centres, scores)


def _check_centres(
    centres: NDArray[np.float32], scores: NDArray[np.float32], shape: tuple[int, int], model: str
) -> None:
    rules = {
        "one score a centre": len(centres) == len(scores),
        "centres within the frame": bool(((centres >= 0) & (centres <= shape[::-1])).all()),
        "centre_scores from 0 to 1": bool(((scores >= 0) & (scores <= 1)).all()),
        "centre_scores in descending order": bool((np.diff(scores) <= 0).all()),
    }
    given = f"{len(centres)} centres and {len(scores)} scores"
    if len(centres):
        low, high = centres.min(axis=0).tolist(), centres.max(axis=0).tolist()
        given += f", centres from {low} to {high}"
    check_rules(rules, model, f"{given} for a frame of {shape}")
