"""Settings that a caller may give for one request, with defaults and deadline."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any

import numpy as np

from cytoserve import contract
from cytoserve.errors import InvalidSetting
from cytoserve.frames import WIRE_WHITE

DEFAULT_URL = "localhost:8001"
DEFAULT_PIPELINE = "yolo_resnet"
DEFAULT_FOREGROUND_PIPELINE = "glioma_unet"
DEFAULT_PROMPT_PIPELINE = "sam_prompt"
DEFAULT_TIMEOUT_S = 60.0
"""Default deadline of a call in seconds, retries included."""

MAX_VERSION = 2**31 - 1
"""Largest version of a pipeline."""

LONGEST_TIMEOUT_S = 1e9
"""Longest deadline in seconds, 32 years: gRPC treats a deadline of 1e10 s as already over."""

_LEARNED = "the one that the model's training chose"

MIN_SCALE, MAX_SCALE = 1e-4, 1e4
"""Range of a scale factor, of a pixel size in um, and of a cell diameter in pixels."""

MAX_CELLS_LIMIT = 65_535
"""Largest ``max_cells``: the server's label image is uint16."""

FIT = "fit"
"""Value of ``scale`` that fits the whole frame into one tile of the network."""

_SCALES = {
    "scale": "--scale",
    "pixel_size_um": "--pixel-size",
    "cell_diameter_px": "--cell-diameter",
}
"""Settings that give a frame's scale -> their command-line options."""


@dataclass(frozen=True)
class Settings:
    """The settings of one request to an instance pipeline.

    At most one of ``scale``, ``pixel_size_um`` and ``cell_diameter_px`` may be given. Without any,
    a frame is assumed to have the scale of the network's training frames.

    Attributes:
        score_threshold: detections with a lower score are dropped; 0..1. None uses the threshold
            chosen in the model's training.
        overlap_threshold: if two cells overlap by more than this share of the smaller one's
            mask, only one is kept; 0..1.
        max_cells: maximum number of cells in one answer; 1..65535. ``Cells.capped`` tells whether
            more were found.
        scale: factor that scales the frame to match the training frames, above 0: 2 for cells of
            half the size. ``"fit"`` scales the whole frame into one tile of the network, which is
            fast and suits a few large cells.
        pixel_size_um: side of a frame pixel in micrometres, compared with the training frames'.
        cell_diameter_px: typical diameter of the cells in frame pixels, compared with the
            training frames'.
    """

    score_threshold: float | None = None
    overlap_threshold: float = contract.OVERLAP_THRESHOLD
    max_cells: int = contract.DEFAULT_MAX_CELLS
    scale: float | str | None = None
    pixel_size_um: float | None = None
    cell_diameter_px: float | None = None

    def __post_init__(self) -> None:
        if self.score_threshold is not None:
            _check_fraction("score_threshold", self.score_threshold, _LEARNED)
        default = type(self).overlap_threshold
        _check_fraction("overlap_threshold", self.overlap_threshold, default)
        if not _is_between(self.max_cells, Integral, 1, MAX_CELLS_LIMIT):
            raise InvalidSetting(
                f"max_cells is a whole number from 1 to {MAX_CELLS_LIMIT}; given: "
                f"{self.max_cells!r}. The default is {type(self).max_cells}."
            )
        self._check_scales()

    @property
    def tells_scale(self) -> bool:
        """Whether the caller gave the frame's scale in any form."""
        return bool(self._told_scales())

    def _told_scales(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _SCALES if getattr(self, name) is not None}

    def _check_scales(self) -> None:
        told = self._told_scales()
        for name, value in told.items():
            if not (name == "scale" and isinstance(value, str) and value == FIT):
                check_scale(name, value)
        if len(told) > 1:
            given = " and ".join(f"{name}={value!r}" for name, value in told.items())
            raise InvalidSetting(
                f"At most one of {', '.join(_SCALES)} ({', '.join(_SCALES.values())}) tells the "
                f"scale; given: {given}. Leave all but one out."
            )


@dataclass(frozen=True)
class ForegroundSettings:
    """The settings of one request to a semantic pipeline.

    Attributes:
        probability_threshold: pixels of at least this probability are foreground; 0..1. None
            uses the threshold chosen in the model's training.
        white_level: the value of the frame that is white; above 0, at most 65535. None uses
            255 for uint8, 65535 for uint16 and 1.0 for float. Set 4095 for a 12-bit camera. Only
            pipelines with ``contract.WHITE_LEVEL_INPUT`` accept it.
    """

    probability_threshold: float | None = None
    white_level: float | None = None

    def __post_init__(self) -> None:
        if self.probability_threshold is not None:
            _check_fraction("probability_threshold", self.probability_threshold, _LEARNED)
        lowest = float(np.finfo(np.float32).tiny)  # less would be 0 on the wire
        if self.white_level is not None and not _is_between(
            self.white_level, Real, lowest, WIRE_WHITE
        ):
            raise InvalidSetting(
                f"white_level is a number above 0, at most {WIRE_WHITE}; given: "
                f"{self.white_level!r}. It is the frame's value for white, such as 4095 for a "
                "12-bit camera; leave it out for the default of the frame's dtype."
            )

    @property
    def known_threshold(self) -> float:
        """The probability threshold, which must be known by now."""
        if self.probability_threshold is None:
            raise ValueError("A threshold must be known here; given: None. Ask for the card first.")
        return self.probability_threshold

    def with_threshold_of(self, learned: float | None) -> ForegroundSettings:
        """Return these settings, with the model's threshold if the caller gave none."""
        if self.probability_threshold is not None:
            return self
        default = contract.PROBABILITY_THRESHOLD if learned is None else learned
        return replace(self, probability_threshold=default)

    def check_for(self, pipeline: contract.Pipeline) -> None:
        """Check that ``pipeline`` accepts these settings.

        Raises:
            InvalidSetting: a white level is set, but the pipeline has no such input.
        """
        if self.white_level is not None and contract.WHITE_LEVEL_INPUT not in pipeline.inputs:
            raise InvalidSetting(
                f"white_level is taken by {names_with(contract.WHITE_LEVEL_INPUT)}; given: "
                f"{self.white_level!r} for {pipeline.name}, which normalises by the frame itself. "
                "Leave it out."
            )

    def wire_white_level(self, dtype: np.dtype[Any]) -> float:
        """Return the white level on the wire for a frame of ``dtype``."""
        scale = WIRE_WHITE if dtype.kind == "f" else 1
        if self.white_level is not None:
            return float(self.white_level) * scale
        return float(np.iinfo(dtype).max) if dtype.kind == "u" else float(scale)


def find_pipeline(name: str) -> contract.Pipeline:
    """Return the pipeline called ``name``.

    Raises:
        InvalidSetting: the contract has no such pipeline.
    """
    try:
        return contract.PIPELINES[name]
    except KeyError:
        known = ", ".join(contract.PIPELINES)
        raise InvalidSetting(
            f"A pipeline is one of: {known}; given: {name!r}. Choose one of them."
        ) from None


def names_with(tensor: contract.Tensor) -> str:
    """Return the names of the pipelines with ``tensor`` as input or output, with commas."""
    return ", ".join(
        name
        for name, pipeline in contract.PIPELINES.items()
        if tensor in (*pipeline.inputs, *pipeline.outputs)
    )


def find_instance_pipeline(name: str) -> contract.Pipeline:
    """Return the instance pipeline called ``name``, which finds cells without prompts.

    Raises:
        InvalidSetting: there is no such pipeline, or it is of another kind.
    """
    return _find_for("segment", name)


def find_semantic_pipeline(name: str) -> contract.Pipeline:
    """Return the semantic pipeline called ``name``, which answers with a probability per pixel.

    Raises:
        InvalidSetting: there is no such pipeline, or it is of another kind.
    """
    return _find_for("foreground", name)


def find_prompted_pipeline(name: str) -> contract.Pipeline:
    """Return the prompted pipeline called ``name``, which answers with one cell per prompt.

    Raises:
        InvalidSetting: there is no such pipeline, or it is of another kind.
    """
    return _find_for("prompt", name)


@dataclass(frozen=True)
class _Kind:
    """One kind of pipeline: its answer in words, the tensor that marks it, and the arguments."""

    answers: str
    tensor: contract.Tensor
    arguments: str

    def has(self, pipeline: contract.Pipeline) -> bool:
        return self.tensor in (*pipeline.inputs, *pipeline.outputs)


_KINDS = {
    "segment": _Kind("answers with cells", contract.CELLS_FOUND, "image"),
    "foreground": _Kind(
        "answers with a probability for every pixel", contract.PROBABILITY, "image"
    ),
    "prompt": _Kind("answers with one cell a prompt", contract.PROMPT_POINTS, "image, prompts"),
}


def _find_for(method: str, name: str) -> contract.Pipeline:
    pipeline, wanted = find_pipeline(name), _KINDS[method]
    if not wanted.has(pipeline):
        right, kind = next((key, kind) for key, kind in _KINDS.items() if kind.has(pipeline))
        raise InvalidSetting(
            f"{method}() asks a pipeline that {wanted.answers}: {names_with(wanted.tensor)}; "
            f"given: {name!r}, which {kind.answers}. Call {right}({kind.arguments}, {name!r})."
        )
    return pipeline


def check_timeout(seconds: float) -> float:
    """Return ``seconds`` if it can be a deadline.

    Raises:
        InvalidSetting: ``seconds`` is not a number above 0 and at most ``LONGEST_TIMEOUT_S``.
            Every call has a deadline.
    """
    if not _is_between(seconds, Real, sys.float_info.min, LONGEST_TIMEOUT_S):
        raise InvalidSetting(
            f"A deadline is a finite number of seconds above 0, at most {LONGEST_TIMEOUT_S:g}; "
            f"given: {seconds!r}. The default is {DEFAULT_TIMEOUT_S:g}."
        )
    return float(seconds)


def check_version(version: int) -> int:
    """Return ``version`` if it can be the version of a pipeline.

    Raises:
        InvalidSetting: ``version`` is not an integer of at least 1.
    """
    if not _is_between(version, Integral, 1, MAX_VERSION):
        raise InvalidSetting(
            f"A version is an integer from 1 on; given: {version!r}. Leave it out for the newest."
        )
    return int(version)


def check_scale(name: str, value: Any) -> None:
    """Check a number that gives a frame's scale.

    Args:
        name: ``scale``, ``pixel_size_um`` or ``cell_diameter_px``.
        value: the given value.

    Raises:
        InvalidSetting: the value is not a number from ``MIN_SCALE`` to ``MAX_SCALE``.
    """
    if not _is_between(value, Real, MIN_SCALE, MAX_SCALE):
        fit = f', or "{FIT}"' if name == "scale" else ""
        raise InvalidSetting(
            f"{name} ({_SCALES[name]}) is a number from {MIN_SCALE:g} to {MAX_SCALE:g}{fit}; "
            f"given: {value!r}. Leave it out where it is not known."
        )


def _check_fraction(name: str, value: Any, default: float | str) -> None:
    if not _is_between(value, Real, 0, 1):
        raise InvalidSetting(
            f"{name} is a number from 0 to 1; given: {value!r}. The default is {default}."
        )


def _is_between(value: Any, kind: type, low: float, high: float) -> bool:
    if isinstance(value, bool):  # to Python, True is an integer
        return False
    fits: bool = isinstance(value, kind) and low <= value <= high  # type: ignore[operator]
    return fits
