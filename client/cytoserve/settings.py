"""What a caller may set for one request, with its defaults and its deadline."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from cytoserve import contract
from cytoserve.errors import InvalidSetting

DEFAULT_URL = "localhost:8001"
DEFAULT_PIPELINE = "yolo_resnet"
DEFAULT_TIMEOUT_S = 60.0
"""Deadline of a call unless the caller sets one, in seconds, its repetitions included."""

MOST_CELLS = 65_535
"""Largest ``max_cells``: the server's label image is uint16."""


@dataclass(frozen=True)
class Settings:
    """The thresholds of one request.

    Attributes:
        score_threshold: detections that score below it are dropped; 0..1.
        overlap_threshold: of two boxes with a larger IoU the better-scored one stays; 0..1.
        max_cells: most cells of one answer; 1..65535. ``Cells.capped`` tells when it cut.
    """

    score_threshold: float = contract.SCORE_THRESHOLD
    overlap_threshold: float = contract.OVERLAP_THRESHOLD
    max_cells: int = contract.MAX_CELLS

    def __post_init__(self) -> None:
        for name in ("score_threshold", "overlap_threshold"):
            value = getattr(self, name)
            if not _is_between(value, Real, 0, 1):
                raise InvalidSetting(
                    f"{name} is a number from 0 to 1; given: {value!r}. "
                    f"The default is {getattr(type(self), name)}."
                )
        if not _is_between(self.max_cells, Integral, 1, MOST_CELLS):
            raise InvalidSetting(
                f"max_cells is a whole number from 1 to {MOST_CELLS}; given: {self.max_cells!r}. "
                f"The default is {type(self).max_cells}."
            )


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


def check_timeout(seconds: float) -> float:
    """Return ``seconds`` if it can be a deadline.

    Raises:
        InvalidSetting: not a finite number above 0. There is no call without a deadline.
    """
    if not _is_between(seconds, Real, sys.float_info.min, sys.float_info.max):
        raise InvalidSetting(
            f"A deadline is a finite number of seconds above 0; given: {seconds!r}. "
            f"The default is {DEFAULT_TIMEOUT_S:g}."
        )
    return float(seconds)


def _is_between(value: Any, kind: type, low: float, high: float) -> bool:
    fits: bool = isinstance(value, kind) and low <= value <= high  # type: ignore[operator]
    return fits
