"""Compare a semantic pipeline's chain with its torch network, pixel by pixel, on whole frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cytoserve.contract import (
    IMAGE,
    MASK,
    PIPELINES,
    PROBABILITY,
    PROBABILITY_THRESHOLD,
    PROBABILITY_THRESHOLD_INPUT,
    WHITE_LEVEL_INPUT,
)
from export.parity.chain import Arrays, Chain
from export.parity.steps import ParityError

TOLERANCE = 2.0
"""Largest difference, in levels of 255, between two probabilities that count as the same."""

SHARE = 0.999
"""Minimum share of a frame's pixels within the tolerance."""

Frame = npt.NDArray[np.generic]
Predict = Callable[[Frame, float], npt.NDArray[np.float32]]
"""Function that returns the probability 0..255 ``[H, W]`` of a camera frame and its white level."""


@dataclass(frozen=True)
class ForegroundParity:
    """Parity figures of one frame."""

    frame: str
    pixels: int
    foreground: float
    """Share of the pixels at or above the default threshold."""
    within: float
    """Share of the pixels whose probabilities differ by at most `TOLERANCE` levels."""
    deviation: float
    """Largest difference, in levels of 255."""


def check_foreground(
    chain: Chain, predict: Predict, frames: Mapping[str, Frame]
) -> list[ForegroundParity]:
    """Compare the probability of the chain with that of a torch network on every frame.

    Args:
        chain: the graphs of a semantic pipeline.
        predict: the same network in torch.
        frames: name -> camera frame ``[H, W]`` or ``[H, W, C]``.

    Raises:
        ParityError: a frame's figures are beyond tolerance.
    """
    figures = []
    for name, image in frames.items():
        white_level = white_level_of(image)
        camera = np.atleast_3d(image).astype(np.uint16)
        inputs = foreground_inputs(chain.pipeline, camera, white_level)
        answer = chain.run(inputs, [PROBABILITY.name, MASK.name])
        figure = _compare(name, answer, predict(image, white_level))
        if figure.within < SHARE:
            raise ParityError(
                f"frame {name}: the probability is within {TOLERANCE:g}/255 of torch's at "
                f"{figure.within:.2%} of the pixels, at most {figure.deviation:.0f}/255 away; "
                f"{SHARE:.1%} must be within."
            )
        figures.append(figure)
    return figures


def foreground_inputs(
    pipeline: str,
    camera: npt.NDArray[np.uint16],
    white_level: float,
    threshold: float = PROBABILITY_THRESHOLD,
) -> Arrays:
    """Inputs of a semantic pipeline for a frame ``[H, W, C]``.

    Inputs that the pipeline does not take are left out.
    """
    values: Arrays = {
        IMAGE.name: camera,
        WHITE_LEVEL_INPUT.name: np.array([white_level], np.float32),
        PROBABILITY_THRESHOLD_INPUT.name: np.array([threshold], np.float32),
    }
    return {tensor.name: values[tensor.name] for tensor in PIPELINES[pipeline].inputs}


def white_level_of(image: Frame) -> float:
    """A white level to try a frame with: 255 for 8-bit frames, else its brightest value."""
    return 255.0 if image.dtype == np.uint8 else max(1.0, float(image.max()))


def _compare(name: str, answer: Arrays, expected: npt.NDArray[np.float32]) -> ForegroundParity:
    probability = answer[PROBABILITY.name]
    if probability.shape != expected.shape:
        raise ParityError(
            f"frame {name}: the probability has the shape {probability.shape}, torch's "
            f"{expected.shape}."
        )
    difference = np.abs(probability.astype(np.float64) - expected)
    return ForegroundParity(
        name,
        probability.size,
        float(answer[MASK.name].astype(bool).mean()),
        float((difference <= TOLERANCE).mean()),
        float(difference.max()),
    )
