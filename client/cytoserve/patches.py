"""From mask patches to frame pixels.

The rule, which the server's ``cell_labels`` and every result of the client share:

    The M x M patch of a cell spans its box ``[x0, x1) x [y0, y1)`` in continuous frame pixels
    (pixel ``i`` spans ``[i, i + 1)``, its centre is ``i + 0.5``). A frame pixel whose centre
    ``(X, Y)`` lies inside the box samples the patch bilinearly at
    ``u = (X - x0) / (x1 - x0) * M - 0.5`` and ``v = (Y - y0) / (y1 - y0) * M - 0.5``, edges
    clamped. It belongs to the cell when the value is at least 127.5.

Boxes may stick out of the frame. A box without area holds no pixel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

THRESHOLD = 127.5
"""A pixel belongs to the cell from this patch value on; patches run from 0 to 255."""

_OUTLINE_ZOOM = 4  # samples a patch pixel when its outline is followed
_OUTLINE_SLACK = 0.1  # frame pixels that a simplified outline may stray


@dataclass(frozen=True)
class Region:
    """The part of a frame that one box covers, and the cell's pixels in it.

    Attributes:
        rows, columns: start and stop in frame pixels, inside the frame.
        mask: bool ``[rows, columns]``, read-only: which of these pixels belong to the cell.
    """

    rows: slice
    columns: slice
    mask: NDArray[np.bool_]


def regions(
    boxes: NDArray[np.float32], patches: NDArray[np.uint8], shape: tuple[int, int]
) -> Iterator[Region]:
    """Yield the region of every cell in order; memory is that of one region.

    Args:
        boxes: float ``[N, 4]``, (x0, y0, x1, y1) in continuous frame pixels, finite.
        patches: uint8 ``[N, M, M]``, probability 0..255, rows from top to bottom.
        shape: ``(H, W)`` of the frame in pixels.

    Raises:
        ValueError: shapes that do not fit each other, or a box that is not finite.
    """
    _check(boxes, patches)
    height, width = shape
    size = patches.shape[-1]
    for (x0, y0, x1, y1), patch in zip(boxes.astype(np.float64), patches, strict=True):
        columns, left, right, u = _samples(x0, x1, width, size)
        rows, top, bottom, v = _samples(y0, y1, height, size)
        values = patch.astype(np.float32)
        values = values[top] + v[:, None] * (values[bottom] - values[top])
        values = values[:, left] + u * (values[:, right] - values[:, left])
        mask = values >= THRESHOLD
        mask.flags.writeable = False
        yield Region(rows, columns, mask)


def paint_labels(
    boxes: NDArray[np.float32], patches: NDArray[np.uint8], shape: tuple[int, int]
) -> NDArray[np.uint16] | NDArray[np.uint32]:
    """Paint all cells into one label image.

    Where two cells claim a pixel, the earlier one keeps it: cells come best score first.

    Args:
        boxes: float ``[N, 4]``, (x0, y0, x1, y1) in continuous frame pixels, finite.
        patches: uint8 ``[N, M, M]``, probability 0..255, rows from top to bottom.
        shape: ``(H, W)`` of the frame in pixels.

    Returns:
        ``[H, W]``: 0 background, ``i`` the i-th cell from 1 on; uint16, or uint32 when N > 65535.

    Raises:
        ValueError: shapes that do not fit each other, or a box that is not finite.
    """
    labels: NDArray[np.uint16] | NDArray[np.uint32] = (
        np.zeros(shape, np.uint16)
        if len(boxes) <= np.iinfo(np.uint16).max
        else np.zeros(shape, np.uint32)
    )
    # Backwards, so that the better cell paints over the worse one.
    backwards = regions(boxes[::-1], patches[::-1], shape)
    for label, region in zip(range(len(boxes), 0, -1), backwards, strict=True):
        labels[region.rows, region.columns][region.mask] = label
    return labels


def outlines(
    boxes: NDArray[np.float32], patches: NDArray[np.uint8]
) -> Iterator[NDArray[np.float32]]:
    """Yield the outline of every cell in order, found on the patch itself, finer than pixels.

    Args:
        boxes: float ``[N, 4]``, (x0, y0, x1, y1) in continuous frame pixels, finite.
        patches: uint8 ``[N, M, M]``, probability 0..255, rows from top to bottom.

    Yields:
        float32 ``[P, 2]``, (x, y) in continuous frame pixels: the outer outline of the largest
        part, without holes, closed from the last point to the first; P = 0 for an empty cell.

    Raises:
        ValueError: shapes that do not fit each other, or a box that is not finite.
    """
    _check(boxes, patches)
    fine = patches.shape[-1] * _OUTLINE_ZOOM
    for (x0, y0, x1, y1), patch in zip(boxes.astype(np.float64), patches, strict=True):
        # INTER_LINEAR samples at the same places as the rule above, edges clamped.
        values = cv2.resize(patch.astype(np.float32), (fine, fine), interpolation=cv2.INTER_LINEAR)
        inside = (values >= THRESHOLD).astype(np.uint8)
        found, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        if not found or x1 <= x0 or y1 <= y0:
            yield np.empty((0, 2), np.float32)
            continue
        largest = max(found, key=cv2.contourArea)[:, 0]
        scale = np.array([x1 - x0, y1 - y0]) / fine
        points = ((largest + 0.5) * scale + (x0, y0)).astype(np.float32)
        yield cv2.approxPolyDP(points[:, None], _OUTLINE_SLACK, closed=True)[:, 0]


def run_lengths(region: Region, shape: tuple[int, int]) -> list[int]:
    """Return the COCO run-length counts of a region in a frame of ``shape`` (H, W).

    Column by column, background first; the counts add up to ``H * W``. The frame itself is
    never made.
    """
    height, width = shape
    columns = np.pad(region.mask.T.astype(np.int8), ((0, 0), (1, 1)))
    change = np.diff(columns, axis=1)
    edges = []
    for edge in (1, -1):  # where runs start, where they stop
        column, row = np.nonzero(change == edge)
        edges.append((column + region.columns.start) * height + row + region.rows.start)
    # A run down to the last row goes on in the next column: there a stop equals a start.
    places, times = np.unique(np.concatenate(edges), return_counts=True)
    flat = [0, *places[times == 1].tolist(), height * width]
    return [stop - start for start, stop in pairwise(flat)]


def _samples(
    low: float, high: float, length: int, size: int
) -> tuple[slice, NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Along one axis: the pixels inside the box, their two patch neighbours, and the weight
    of the second."""
    start, stop = (int(np.clip(np.ceil(edge - 0.5), 0, length)) for edge in (low, high))
    stop = max(start, stop)
    centres = np.arange(start, stop) + 0.5
    places = np.clip((centres - low) * (size / max(high - low, 1e-30)) - 0.5, 0, size - 1)
    before = places.astype(np.intp)
    after = np.minimum(before + 1, size - 1)
    return slice(start, stop), before, after, (places - before).astype(np.float32)


def _check(boxes: NDArray[np.float32], patches: NDArray[np.uint8]) -> None:
    if (
        boxes.shape != (len(patches), 4)
        or patches.ndim != 3
        or patches.shape[1] != patches.shape[2]
    ):
        raise ValueError(
            f"Boxes are [N, 4] and patches [N, M, M]; given: {boxes.shape} and {patches.shape}. "
            "Pass both from the same answer."
        )
    if not np.isfinite(boxes).all():
        raise ValueError("Boxes are finite; given: NaN or infinity. Leave such cells out.")
