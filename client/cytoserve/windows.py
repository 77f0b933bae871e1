"""Send frames that are too large for one request to a tiled pipeline, window by window.

The server lays its tiles on a grid of ``TILE_STEP`` that starts at the frame's corner. A window
that starts at a multiple of ``TILE_STEP`` has the same grid, so its pixels lie in the same tiles
as those of the whole frame. The exceptions are tiles that reach over the window's edge and are
filled with its mirror image. They affect pixels at most ``TILE_SIZE - TILE_MARGIN`` px from the
edge, and a few px more for the cleaning filters and the smoothing of the centres. Every window
therefore overlaps its neighbours by a halo of ``HALO`` px, and only its core is kept. The cores
tile the frame, so the result is the same as if the server had processed the frame as a whole.

This needs memory for the result (2 bytes per pixel) and for one window, its request and its answer.
The frame itself may be a ``numpy.memmap``: it is read window by window.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cytoserve.contract import STEPS, TILE_SIZE, TILE_STEP, TILES, Pipeline
from cytoserve.foreground import Foreground
from cytoserve.frames import FrameLimits, FrameShape, request_limits

HALO = TILE_SIZE
"""Width of a window's border around its core, where the frame continues, in pixels:
``TILE_SIZE - TILE_MARGIN`` (192) for the tiles, the rest for filters and smoothing."""

WINDOW_SIDE = 24 * TILE_STEP
"""Longest side of a window: 3072 px, 57 MB as uint16 RGB."""

CORE_SIDE = WINDOW_SIDE - 2 * HALO
"""Side of the cores, in pixels; a multiple of ``TILE_STEP``, so that windows start on the grid."""

MAX_STITCHED_SIDE = 20_000
"""Longest side of a frame that is sent in windows, in pixels."""


def frame_limits(pipeline: Pipeline) -> FrameLimits:
    """Return the limits of a frame for ``pipeline``, whether sent in one request or in windows."""
    if not (is_tiled(pipeline) or pipeline.is_instance):
        return request_limits(pipeline)
    side = MAX_STITCHED_SIDE
    return FrameLimits(side, side**2, side**2 * 3 * 2, f" for {pipeline.name}")


def is_tiled(pipeline: Pipeline) -> bool:
    """Whether the server tiles a frame on a grid, so that windows give the same answer."""
    return any(TILES in STEPS[step].outputs for step in pipeline.steps)


@dataclass(frozen=True)
class Window:
    """One part of a frame.

    Attributes:
        rows, columns: the part that is sent, in frame pixels.
        core_rows, core_columns: the part of the answer that is kept, in frame pixels.
    """

    rows: slice
    columns: slice
    core_rows: slice
    core_columns: slice


def windows(frame_shape: FrameShape, pipeline: Pipeline) -> list[Window]:
    """Return the windows whose cores tile a frame ``(H, W, C)``: one if it fits in a request."""
    height, width, _ = frame_shape
    if request_limits(pipeline).allow(frame_shape):
        whole = slice(0, height), slice(0, width)
        return [Window(*whole, *whole)]
    return [
        Window(rows, columns, core_rows, core_columns)
        for rows, core_rows in _spans(height)
        for columns, core_columns in _spans(width)
    ]


def _spans(length: int) -> Iterator[tuple[slice, slice]]:
    """Yield windows and cores along one axis."""
    for start in range(0, length, CORE_SIDE):
        stop = min(start + CORE_SIDE, length)
        yield slice(max(0, start - HALO), min(length, stop + HALO)), slice(start, stop)


class Stitching:
    """Stitches the answers to all windows of a frame.

    Args:
        frame_shape: ``(H, W, C)`` of the whole frame.
    """

    def __init__(self, frame_shape: FrameShape) -> None:
        height, width, _ = frame_shape
        self._shape = (height, width)
        self._probability = np.zeros(self._shape, np.uint8)
        self._mask = np.zeros(self._shape, np.bool_)
        self._centres: list[NDArray[np.float32]] = []
        self._scores: list[NDArray[np.float32]] = []
        self._last: Foreground | None = None

    def put(self, window: Window, answer: Foreground) -> None:
        """Store the part of ``answer`` that lies in the core of ``window``."""
        rows, columns = window.core_rows, window.core_columns
        top, left = window.rows.start, window.columns.start
        part = (
            slice(rows.start - top, rows.stop - top),
            slice(columns.start - left, columns.stop - left),
        )
        self._probability[rows, columns] = answer.probability[part]
        self._mask[rows, columns] = answer.mask[part]
        self._last = answer
        if answer.centres is not None and answer.centre_scores is not None:
            centres = answer.centres + np.array([left, top], np.float32)
            kept = self._inside(centres[:, 0], columns, 1) & self._inside(centres[:, 1], rows, 0)
            self._centres.append(centres[kept])
            self._scores.append(answer.centre_scores[kept])

    def whole(self) -> Foreground:
        """Return the foreground of the whole frame; call it after :meth:`put` for every window.

        Centres come best score first; of equal scores, the one further up and left comes first.
        """
        if self._last is None:
            raise ValueError("A frame is stitched from one window at least; given: none. Put one.")
        centres = scores = None
        if self._centres:
            centres, scores = np.concatenate(self._centres), np.concatenate(self._scores)
            order = np.lexsort((centres[:, 0], centres[:, 1], -scores))
            centres, scores = centres[order], scores[order]
        return Foreground(
            self._probability,
            self._mask,
            self._last.class_name,
            self._last.threshold,
            centres,
            scores,
        )

    def _inside(self, place: NDArray[np.float32], core: slice, axis: int) -> NDArray[np.bool_]:
        """Whether places along an axis lie in a core; the last core has the frame's far edge."""
        below = place <= core.stop if core.stop == self._shape[axis] else place < core.stop
        inside: NDArray[np.bool_] = (place >= core.start) & below
        return inside
