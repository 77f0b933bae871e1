"""Convert mask patches to frame pixels.

The server's ``cell_labels`` and every result of the client share two rules.

Pixels that a cell claims:

    The M x M patch of a cell spans its box ``[x0, x1) x [y0, y1)`` in continuous frame pixels
    (pixel ``i`` spans ``[i, i + 1)``, its centre is ``i + 0.5``). A frame pixel whose centre
    ``(X, Y)`` lies inside the box samples the patch bilinearly at
    ``u = (X - x0) / (x1 - x0) * M - 0.5`` and ``v = (Y - y0) / (y1 - y0) * M - 0.5``, edges
    clamped. The cell claims the pixel if the value is at least 127.5.

Pixels that a cell owns:

    Cells are painted in order. Each takes the pixels that it claims and no earlier cell owns. Of
    these it owns the largest 8-connected piece (neighbours by side or corner). The pixels of its
    other pieces stay free for later cells. A cell that is left without a pixel owns the free
    pixel nearest to the middle of its box, or none if the frame has no free pixel. A cell
    without a patch value of at least 127.5, such as a prompt that found nothing, owns none.

A cell is therefore at most one piece, a pixel has at most one owner, and the i-th cell is ``i`` in
the label image. :func:`regions` yields claimed pixels, overlaps included. :func:`paint_labels`,
:func:`owned_regions` and :func:`outlines` give owned pixels.

Boxes may extend beyond the frame. A box without area claims no pixel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

LabelImage = NDArray[np.uint16] | NDArray[np.uint32]
"""Label image ``[H, W]``: 0 for background, ``i`` for the i-th cell, counted from 1."""

THRESHOLD = 127.5
"""Lowest patch value at which a cell claims a pixel; patches run from 0 to 255."""

_FIRST_REACH = 4  # pixels searched first on each side of a box's middle
_OUTLINE_SAMPLES = 256  # along the longer side of a cell whose outline is traced
_OUTLINE_ZOOMS = (2, 8)  # fewest and most samples per frame pixel
_OUTLINE_SLACK = 0.1  # frame pixels by which a simplified outline may deviate

Window = tuple[slice, slice]


@dataclass(frozen=True)
class Region:
    """A rectangle of a frame, and the cell's pixels in it.

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
    """Yield the pixels that every cell claims, in order: its whole mask, overlaps included.

    A region spans the pixels of the cell's box. The function needs memory for one region.

    Args:
        boxes: float ``[N, 4]``, (x0, y0, x1, y1) in continuous frame pixels, finite.
        patches: uint8 ``[N, M, M]``, probability 0..255, rows from top to bottom.
        shape: ``(H, W)`` of the frame in pixels.

    Raises:
        ValueError: the shapes do not fit each other, or a box is not finite.
    """
    _check(boxes, patches)
    frame = (slice(0, shape[0]), slice(0, shape[1]))
    for box, patch in zip(boxes.tolist(), patches, strict=True):
        rows, columns, values = _sampled(box, patch, frame)
        mask = values >= THRESHOLD
        mask.flags.writeable = False
        yield Region(rows, columns, mask)


def paint_labels(
    boxes: NDArray[np.float32], patches: NDArray[np.uint8], shape: tuple[int, int]
) -> LabelImage:
    """Paint the pixels that all cells own into one label image.

    The function needs memory for the label image and one region.

    Args:
        boxes: float ``[N, 4]``, (x0, y0, x1, y1) in continuous frame pixels, finite.
        patches: uint8 ``[N, M, M]``, probability 0..255, rows from top to bottom.
        shape: ``(H, W)`` of the frame in pixels.

    Returns:
        ``[H, W]``: 0 background, ``i`` the i-th cell from 1 on; uint16, or uint32 if N > 65535.

    Raises:
        ValueError: the shapes do not fit each other, or a box is not finite.
    """
    labels: LabelImage = (
        np.zeros(shape, np.uint16)
        if len(boxes) <= np.iinfo(np.uint16).max
        else np.zeros(shape, np.uint32)
    )
    claims = regions(boxes, patches, shape)
    for label, (box, claim) in enumerate(zip(boxes.tolist(), claims, strict=True), 1):
        window = labels[claim.rows, claim.columns]
        piece = _largest_piece(claim.mask & (window == 0))
        if piece is not None:
            window[piece] = label
            continue
        if patches[label - 1].max(initial=0) < THRESHOLD:
            continue  # such as a prompt that found nothing
        pixel = _nearest(labels, 0, box)
        if pixel is None:
            break  # the frame is full
        labels[pixel] = label
    return labels


def owned_regions(boxes: NDArray[np.float32], labels: LabelImage) -> Iterator[Region]:
    """Yield the pixels that every cell owns, in order: those with its number in a label image.

    A region is the cell's bounding box. It has no row and no column if the cell owns no pixel.
    The function needs memory for one region.

    Args:
        boxes: float ``[N, 4]``, (x0, y0, x1, y1) in continuous frame pixels, finite.
        labels: ``[H, W]``, painted by :func:`paint_labels` from cells with these boxes.
    """
    for label, box in enumerate(boxes.tolist(), 1):
        rows, columns = _covered(box, (slice(0, labels.shape[0]), slice(0, labels.shape[1])))
        mask = labels[rows, columns] == label
        if not mask.any():  # it was left without a pixel and took a free one
            rows, columns = _nearest(labels, label, box) or (slice(0, 0), slice(0, 0))
            mask = labels[rows, columns] == label
        left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
        mask = mask[top : top + height, left : left + width]
        mask.flags.writeable = False
        top, left = top + rows.start, left + columns.start
        yield Region(slice(top, top + height), slice(left, left + width), mask)


def outlines(
    boxes: NDArray[np.float32], patches: NDArray[np.uint8], labels: LabelImage
) -> Iterator[NDArray[np.float32]]:
    """Yield the outline of the pixels that every cell owns, in order, with subpixel precision.

    An outline follows the patch where the cell ends by itself, and the pixels' border where an
    earlier cell begins. The outline of a thin cell, or of a cell joined by corners only, follows
    its pixels.

    Args:
        boxes: float ``[N, 4]``, (x0, y0, x1, y1) in continuous frame pixels, finite.
        patches: uint8 ``[N, M, M]``, probability 0..255, rows from top to bottom.
        labels: ``[H, W]``, painted by :func:`paint_labels` from these cells.

    Yields:
        float32 ``[P, 2]``, (x, y) in continuous frame pixels: the outer outline, without holes,
        closed from the last point to the first; P = 0 if the cell owns no pixel.

    Raises:
        ValueError: the shapes do not fit each other, or a box is not finite.
    """
    _check(boxes, patches)
    owned = owned_regions(boxes, labels)
    for box, patch, region in zip(boxes.tolist(), patches, owned, strict=True):
        yield (
            _outline(box, patch, region, (labels.shape[0], labels.shape[1]))
            if region.mask.size
            else np.empty((0, 2), np.float32)
        )


def run_lengths(region: Region, shape: tuple[int, int]) -> list[int]:
    """Return the COCO run-length counts of a region in a frame of ``shape`` (H, W).

    Runs go column by column, background first. The counts add up to ``H * W``. No array as large as
    the frame is made.
    """
    height, width = shape
    columns = np.pad(region.mask.T.astype(np.int8), ((0, 0), (1, 1)))
    change = np.diff(columns, axis=1)
    edges = []
    for edge in (1, -1):  # where runs start, where they stop
        column, row = np.nonzero(change == edge)
        edges.append((column + region.columns.start) * height + row + region.rows.start)
    # A run down to the last row continues in the next column: there a stop equals a start.
    places, times = np.unique(np.concatenate(edges), return_counts=True)
    flat = [0, *places[times == 1].tolist(), height * width]
    return [stop - start for start, stop in pairwise(flat)]


def _sampled(
    box: Sequence[float], patch: NDArray[np.uint8], within: Window
) -> tuple[slice, slice, NDArray[np.float32]]:
    """Return the rows and columns within a window that a box covers, and the patch values there."""
    x0, y0, x1, y1 = box
    rows, columns = _covered(box, within)
    top, bottom, v = _samples(y0, y1, rows, len(patch))
    left, right, u = _samples(x0, x1, columns, len(patch))
    values = patch.astype(np.float32)
    values = values[top] + v[:, None] * (values[bottom] - values[top])
    return rows, columns, values[:, left] + u * (values[:, right] - values[:, left])


def _covered(box: Sequence[float], within: Window) -> Window:
    """Return the rows and columns within a window whose pixel centres are in a box."""
    x0, y0, x1, y1 = box
    rows, columns = (
        [min(max(math.ceil(edge - 0.5), part.start), part.stop) for edge in edges]
        for part, edges in zip(within, ((y0, y1), (x0, x1)), strict=True)
    )
    return slice(rows[0], max(rows)), slice(columns[0], max(columns))


def _samples(
    low: float, high: float, pixels: slice, size: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Return, for one axis, each pixel's two patch neighbours and the weight of the second."""
    centres = np.arange(pixels.start, pixels.stop) + 0.5
    places = np.clip((centres - low) * (size / max(high - low, 1e-30)) - 0.5, 0, size - 1)
    before = places.astype(np.intp)
    after = np.minimum(before + 1, size - 1)
    return before, after, (places - before).astype(np.float32)


def _largest_piece(mask: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """Return the largest 8-connected piece (the first by rows if sizes are equal), or None."""
    if not mask.any():
        return None
    if len(_contours(mask, cv2.RETR_LIST)) == 1:  # one piece without a hole: most cells
        return mask
    _, pieces, found, _ = cv2.connectedComponentsWithStats(
        mask.view(np.uint8), connectivity=8, ltype=cv2.CV_32S
    )
    areas = found[:, cv2.CC_STAT_AREA]
    areas[0] = 0  # the background
    first = (areas == areas.max())[pieces].argmax()
    largest: NDArray[np.bool_] = pieces == pieces.flat[first]
    return largest


def _nearest(labels: LabelImage, label: int, box: Sequence[float]) -> Window | None:
    """Return the pixel with a label that is nearest to the middle of a box, or None.

    Of equally near pixels the first is returned. A middle outside the frame is moved into it.
    """
    height, width = labels.shape
    x, y = min(max((box[0] + box[2]) / 2, 0), width), min(max((box[1] + box[3]) / 2, 0), height)
    row, column, reach = min(int(y), height - 1), min(int(x), width - 1), _FIRST_REACH
    while True:
        top, left = max(0, row - reach), max(0, column - reach)
        window = labels[top : row + reach + 1, left : column + reach + 1]
        rows, columns = np.nonzero(window == label)
        distances = np.hypot(rows + (top + 0.5 - y), columns + (left + 0.5 - x))
        whole = window.size == labels.size
        if len(rows) and (whole or distances.min() <= reach):
            best = distances.argmin()
            row, column = int(rows[best]) + top, int(columns[best]) + left
            return slice(row, row + 1), slice(column, column + 1)
        if whole:
            return None
        reach *= 2


def _outline(
    box: Sequence[float], patch: NDArray[np.uint8], region: Region, shape: tuple[int, int]
) -> NDArray[np.float32]:
    """Return the outline of a region with a pixel: float32 ``[P, 2]``, (x, y), frame pixels."""
    height, width = region.mask.shape
    top, left = region.rows.start - 1, region.columns.start - 1  # one pixel around the region
    inside = np.zeros((height + 2, width + 2), np.bool_)
    inside[1:-1, 1:-1] = region.mask
    field = np.zeros(inside.shape, np.uint8)
    around = (
        slice(max(0, top), min(shape[0], top + height + 2)),
        slice(max(0, left), min(shape[1], left + width + 2)),
    )
    rows, columns, values = _sampled(box, patch, around)
    field[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = np.rint(
        values
    )
    field[(field > THRESHOLD) & ~inside] = 0  # claimed, but owned by another cell or by none
    fewest, most = _OUTLINE_ZOOMS
    zoom = min(max(_OUTLINE_SAMPLES // max(height, width), fewest), most)
    points = ((_followed(field, inside, zoom) + 0.5) / zoom + (left, top)).astype(np.float32)
    simple: NDArray[Any] = cv2.approxPolyDP(points[:, None], _OUTLINE_SLACK, closed=True)[:, 0]
    return simple.astype(np.float32, copy=False)


def _followed(field: NDArray[np.uint8], inside: NDArray[np.bool_], zoom: int) -> NDArray[Any]:
    """Return the samples on the outline of one cell, ``[P, 2]``, (x, y), ``zoom`` per pixel.

    They follow the field, or the pixels if the field is in pieces or covers less than half of
    the cell.
    """
    size = (field.shape[1] * zoom, field.shape[0] * zoom)
    fine = cv2.resize(field, size, interpolation=cv2.INTER_LINEAR)
    found = _contours(fine > THRESHOLD, cv2.RETR_EXTERNAL)
    least = np.count_nonzero(inside) * zoom**2 / 2
    if len(found) != 1 or cv2.contourArea(found[0]) < least:
        fine = cv2.resize(inside.view(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        found = _contours(fine > 0, cv2.RETR_EXTERNAL)
    return max(found, key=cv2.contourArea)[:, 0]


def _contours(inside: NDArray[np.bool_], mode: int) -> Sequence[NDArray[Any]]:
    """Return OpenCV's 8-connected contours, through the centres of the outermost samples."""
    return cv2.findContours(inside.view(np.uint8), mode, cv2.CHAIN_APPROX_NONE)[0]


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
