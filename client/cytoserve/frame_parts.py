"""Frames that are too large for one request, sent in windows, and how the answers are joined.

**Tiled foreground.** The server lays its tiles on a grid of ``TILE_STEP`` that starts at the
frame's corner. A window that starts at a multiple of ``TILE_STEP`` has the same grid, so its pixels
lie in the same tiles as those of the whole frame. The exceptions are tiles that reach over the
window's edge and are filled with its mirror image. They affect pixels at most
``TILE_SIZE - TILE_MARGIN`` px from the edge, and a few px more for the cleaning filters and the
smoothing of the centres. Every window therefore overlaps its neighbours by a halo of ``HALO`` px,
and only its core is kept. The cores tile the frame, so the result is the same as if the server had
processed the frame as a whole.
This needs memory for the result (2 bytes per pixel) and for one window, its request and its answer.
The frame itself may be a ``numpy.memmap``: it is read window by window.

**Cells.** Windows overlap by the size of the largest cells. Every cell therefore lies whole in the
window whose core contains its middle, and is taken from there. A cell near the border of two cores
may be found in both; of such a pair the better-scored one is kept. If a cell is larger than the
overlap, possibly only one window's part of it is found. Every window is normalised separately.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cytoserve.cells import Cells
from cytoserve.contract import MAX_TILES, STEPS, TILE_SIZE, TILE_STEP, TILES, Pipeline
from cytoserve.errors import FrameTooLarge
from cytoserve.foreground import Foreground
from cytoserve.frames import FrameLimits, FrameShape, request_limits
from cytoserve.operating_point import OperatingPoint

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
        for rows, core_rows in _spans(height, CORE_SIDE, HALO)
        for columns, core_columns in _spans(width, CORE_SIDE, HALO)
    ]


def _spans(length: int, side: int, halo: int) -> Iterator[tuple[slice, slice]]:
    """Yield windows and cores along one axis; cores have ``side`` pixels."""
    for start in range(0, length, side):
        stop = min(start + side, length)
        yield slice(max(0, start - halo), min(length, stop + halo)), slice(start, stop)


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


SLACK_SHARE = 0.25
"""Share of the overlap by which a cell's middle may lie beyond the core of its window, so that no
cell is lost whose box differs between two windows."""

SAME_CELL = 0.5
"""IoU of the boxes above which two cells of different windows are the same cell."""


def cell_windows(
    frame_shape: FrameShape, pipeline: Pipeline, point: OperatingPoint
) -> list[Window]:
    """Return the windows whose cores tile a frame ``(H, W, C)``: one if it fits in a request.

    Raises:
        FrameTooLarge: windows that fit in a request would be little more than their overlap.
    """
    height, width, channels = frame_shape
    limits, longest, parts = request_limits(pipeline), max(height, width), 1
    while True:
        side = math.ceil(longest / parts)
        rows, columns = (list(_spans(length, side, point.halo)) for length in (height, width))
        largest = (_longest(rows), _longest(columns), channels)
        if limits.allow(largest) and point.tiles(largest, pipeline) <= MAX_TILES:
            return [
                Window(sent_rows, sent_columns, core_rows, core_columns)
                for sent_rows, core_rows in rows
                for sent_columns, core_columns in columns
            ]
        if side <= point.halo:
            raise FrameTooLarge(
                f"A frame beyond one request is sent in windows that overlap by the largest cells, "
                f"here {point.halo:,} px; given: {height:,} x {width:,} px at "
                f"{point.network_scale:.4g} network pixels per frame pixel, for which no window "
                "fits a request. Bin the frame, or give a scale nearer to 1 (--scale)."
            )
        parts += 1


def join_windows(
    windows: Sequence[Window],
    answers: Sequence[Cells],
    frame_shape: FrameShape,
    point: OperatingPoint,
) -> Cells:
    """Join the cells of all windows of a frame, best score first.

    Args:
        windows: see :func:`cell_windows`.
        answers: the cells of each window, in pixels of the window.
        frame_shape: ``(H, W, C)`` of the whole frame.
        point: the numbers of every request; ``max_cells`` limits the cells of the whole frame.

    Returns:
        The cells in pixels of the frame. ``found`` includes cells that the cap cut from a window,
        and may then count a cell twice that lies in two windows.
    """
    slack = SLACK_SHARE * point.halo
    parts = [
        _in_frame(window, cells, frame_shape, slack)
        for window, cells in zip(windows, answers, strict=True)
    ]
    names = ("boxes", "scores", "class_ids", "class_probs", "patches")
    whole = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    joined = replace(parts[0], **whole, found=len(whole["scores"]))
    origins = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    near = np.concatenate(
        [_reaches_out(part, window, slack) for part, window in zip(parts, windows, strict=True)]
    )
    order = np.argsort(-joined.scores, kind="stable")
    joined, origins, near = joined[order], origins[order], near[order]
    kept = ~near
    kept[near] = _first_of_each(joined.boxes[near], origins[near])
    joined = joined[kept]
    cut = sum(cells.found - len(cells) for cells in answers)
    return replace(joined[: point.max_cells], found=len(joined) + cut)


def _longest(spans: Sequence[tuple[slice, slice]]) -> int:
    return max(int(sent.stop - sent.start) for sent, _ in spans)


def _in_frame(window: Window, cells: Cells, frame_shape: FrameShape, slack: float) -> Cells:
    """Return the cells with their middle in a window's core or near it, in frame pixels."""
    left, top = window.columns.start, window.rows.start
    boxes = cells.boxes + np.array([left, top, left, top], np.float32)
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    low, high = _core(window)
    inside = ((middles >= low - slack) & (middles <= high + slack)).all(axis=1)
    return replace(cells, boxes=boxes, frame_shape=frame_shape[:2], labels=None)[inside]


def _reaches_out(cells: Cells, window: Window, slack: float) -> NDArray[np.bool_]:
    """Return which cells, by their boxes, another window could have found, too."""
    low, high = _core(window)
    within = (cells.boxes[:, :2] >= low + slack) & (cells.boxes[:, 2:] <= high - slack)
    reaching: NDArray[np.bool_] = ~within.all(axis=1)
    return reaching


def _core(window: Window) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the corners (x, y) of a window's core."""
    rows, columns = window.core_rows, window.core_columns
    return np.array([columns.start, rows.start]), np.array([columns.stop, rows.stop])


def _first_of_each(boxes: NDArray[np.float32], origins: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return which cells, best first, do not repeat an earlier one from another window."""
    kept = np.ones(len(boxes), bool)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    for index in range(1, len(boxes)):
        others = np.flatnonzero(kept[:index] & (origins[:index] != origins[index]))
        corner = np.minimum(boxes[index, 2:], boxes[others, 2:]) - np.maximum(
            boxes[index, :2], boxes[others, :2]
        )
        shared = corner.clip(min=0).prod(axis=1)
        union = areas[index] + areas[others] - shared
        kept[index] = not (shared > SAME_CELL * union).any()
    return kept
