"""The foreground that a semantic pipeline found in one frame, with a probability per pixel."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cytoserve.contract import PROBABILITY_THRESHOLD
from cytoserve.errors import InvalidSetting
from cytoserve.exports import Exports
from cytoserve.measurements import MEASUREMENTS, measure
from cytoserve.patches import Region

FULL = 255
"""Value of a probability map that stands for 1.0."""

_CONNECTIVITY = 8


def foreground_mask(probability: NDArray[np.uint8], threshold: float) -> NDArray[np.bool_]:
    """Return which pixels are foreground, by the rule that server and client share.

    A pixel is foreground where ``float32(probability) >= float32(threshold) * float32(255)``.
    Probabilities are whole numbers, so it is enough to compare with the next whole number, without
    a float image.

    Args:
        probability: uint8, any shape; 0..255 is 0..1.
        threshold: 0..1.
    """
    return probability >= math.ceil(np.float32(threshold) * np.float32(FULL))


@dataclass(frozen=True, eq=False)
class Foreground(Exports):
    """The result of a semantic pipeline; every array is read-only.

    Coordinates are continuous frame pixels: pixel ``i`` spans ``[i, i + 1)``.

    Attributes:
        probability: uint8 ``[H, W]``; 0..255 is 0..1.
        mask: bool ``[H, W]``: where ``probability`` reaches ``threshold``, by
            :func:`foreground_mask`.
        class_name: name of the foreground class.
        threshold: lowest probability of a foreground pixel, 0..1.
        centres: float32 ``[N, 2]``, (x, y): one point per object, best score first. None if the
            pipeline does not detect centres; ``[0, 2]`` if it found none in this frame.
        centre_scores: float32 ``[N]``, 0..1, descending: the smoothed probability at each centre.
            None if ``centres`` is None.
    """

    probability: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    class_name: str
    threshold: float
    centres: NDArray[np.float32] | None = None
    centre_scores: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if self.probability.ndim != 2 or self.mask.shape != self.probability.shape:
            raise ValueError(
                "Probability and mask are [H, W], of the same size; given: "
                f"{self.probability.shape} and {self.mask.shape}. Pass both from the same answer."
            )
        if (self.centres is None) is not (self.centre_scores is None):
            raise ValueError(
                "Centres and centre_scores come together; given: only one of them. "
                "Pass both, or neither."
            )
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                view = value.view()
                view.flags.writeable = False
                object.__setattr__(self, field.name, view)

    @classmethod
    def from_probability(
        cls,
        probability: NDArray[np.uint8],
        threshold: float = PROBABILITY_THRESHOLD,
        class_name: str = "foreground",
        centres: NDArray[np.float32] | None = None,
        centre_scores: NDArray[np.float32] | None = None,
    ) -> Foreground:
        """Make a foreground and compute its mask; the arguments are the attributes."""
        mask = foreground_mask(probability, threshold)
        return cls(probability, mask, class_name, threshold, centres, centre_scores)

    def __repr__(self) -> str:
        height, width = self.frame_shape
        centres = "" if self.centres is None else f", {len(self.centres)} centres"
        return (
            f"<Foreground {self.class_name!r} {self.confluency:.1f} % of {height} x {width} px "
            f"at {self.threshold:g}{centres}>"
        )

    @property
    def frame_shape(self) -> tuple[int, int]:
        """``(H, W)`` of the frame in pixels."""
        height, width = self.probability.shape
        return height, width

    @property
    def area_fraction(self) -> float:
        """Fraction of the frame that is foreground, 0..1."""
        return np.count_nonzero(self.mask) / self.mask.size

    @property
    def confluency(self) -> float:
        """Confluency in percent, 0..100: the part of the frame that cells cover.

        The value is 100 x ``area_fraction``. It is the confluency of the dish only if the
        foreground is all cells and the frame shows nothing but the dish.
        """
        return 100 * self.area_fraction

    def with_threshold(self, threshold: float) -> Foreground:
        """Return the same foreground with another threshold, without another request.

        Args:
            threshold: 0..1. If there are centres, at least the current threshold: the answer
                contains no centres with lower scores.

        Raises:
            InvalidSetting: outside 0..1, or below the current threshold if there are centres.
        """
        lowest = 0.0 if self.centres is None else self.threshold
        if not lowest <= threshold <= 1:
            remedy = "Choose one of them."
            if 0 <= threshold < lowest:
                remedy = (
                    "Centres below the threshold of the request were not answered: ask the server "
                    "anew with probability_threshold=..."
                )
            raise InvalidSetting(
                f"Here a threshold is a number from {lowest:g} to 1; given: {threshold!r}. {remedy}"
            )
        mask = foreground_mask(self.probability, threshold)
        changed = replace(self, mask=mask, threshold=threshold)
        if self.centres is None or self.centre_scores is None:
            return changed
        kept = self.centre_scores >= np.float32(threshold)
        return replace(changed, centres=self.centres[kept], centre_scores=self.centre_scores[kept])

    def components(self) -> Iterator[Region]:
        """Yield the 8-connected parts of the mask (neighbours by side or corner).

        They come from top to bottom, by the first row and then the first column of their box. The
        i-th is ``i`` in :meth:`label_image`. Touching objects are one component. The method needs
        5 bytes per pixel of the frame while it runs.
        """
        labels, boxes, order = self._labelled()
        return _regions(labels, boxes, order)

    def label_image(self) -> NDArray[np.uint16] | NDArray[np.uint32]:
        """Return ``[H, W]``: 0 background, ``i`` the i-th component from 1 on.

        The dtype is uint16, or uint32 if there are more than 65535 components.
        """
        labels, _, order = self._labelled()
        return _numbered(labels, order)

    def table(self) -> dict[str, NDArray[Any]]:
        """Return one column per key, one row per component; ``pandas.DataFrame(...)`` accepts it.

        ``label`` is the number in the label image. ``class``, ``mean_probability`` (0..1) and, if
        the pipeline detects centres, ``centres`` (their number in the component) follow, then
        :data:`cytoserve.measurements.MEASUREMENTS`.
        """
        labels, boxes, order = self._labelled()
        rows, means = [], []
        for region in _regions(labels, boxes, order):
            rows.append(measure(region))
            means.append(self.probability[region.rows, region.columns][region.mask].mean())
        columns = np.array(rows, np.float64).reshape(len(order), len(MEASUREMENTS)).T
        table: dict[str, NDArray[Any]] = {
            "label": np.arange(1, len(order) + 1),
            "class": np.full(len(order), self.class_name),
            "mean_probability": np.array(means, np.float64) / FULL,
        }
        if self.centres is not None:
            x, y = _pixels(self.centres, self.frame_shape)
            inside = np.bincount(labels[y, x], minlength=len(order) + 1)
            table["centres"] = inside[order]
        return table | dict(zip(MEASUREMENTS, columns, strict=True))

    def summary(self) -> dict[str, float | int | None]:
        """Return four numbers that summarise the frame.

        The keys are ``area_fraction`` (0..1), ``confluency`` (percent), ``components``, and
        ``nuclei``: the number of centres, or None if the pipeline does not detect centres.
        """
        return {
            "area_fraction": self.area_fraction,
            "confluency": self.confluency,
            "components": len(self._labelled()[2]),
            "nuclei": None if self.centres is None else len(self.centres),
        }

    def _labelled(self) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.intp]]:
        """Return OpenCV's labels ``[H, W]``, boxes (left, top, width, height), and label order."""
        _, labels, boxes, _ = cv2.connectedComponentsWithStats(
            np.ascontiguousarray(self.mask).view(np.uint8),
            connectivity=_CONNECTIVITY,
            ltype=cv2.CV_32S,
        )
        found = boxes[1:]
        order = 1 + np.lexsort((found[:, cv2.CC_STAT_LEFT], found[:, cv2.CC_STAT_TOP]))
        return labels.astype(np.int32, copy=False), boxes.astype(np.int32, copy=False), order


def _regions(
    labels: NDArray[np.int32], boxes: NDArray[np.int32], order: NDArray[np.intp]
) -> Iterator[Region]:
    for label in order.tolist():
        left, top, width, height = boxes[label, :4].tolist()
        rows, columns = slice(top, top + height), slice(left, left + width)
        mask = labels[rows, columns] == label
        mask.flags.writeable = False
        yield Region(rows, columns, mask)


def _numbered(
    labels: NDArray[np.int32], order: NDArray[np.intp]
) -> NDArray[np.uint16] | NDArray[np.uint32]:
    """Renumber the labels by their order."""
    numbers = np.zeros(len(order) + 1, np.uint32)
    numbers[order] = np.arange(1, len(order) + 1)
    if len(order) <= np.iinfo(np.uint16).max:
        return numbers.astype(np.uint16)[labels]
    return numbers[labels]


def _pixels(
    centres: NDArray[np.float32], shape: tuple[int, int]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return each centre's pixel; a centre on the frame's far edge lies in the last pixel."""
    x, y = np.floor(centres).astype(np.intp).T
    return np.minimum(x, shape[1] - 1), np.minimum(y, shape[0] - 1)
