"""Finds the largest rectangles of a frame that avoid its cells, annotated or not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from training.datasets.annotated import AnnotatedCell, AnnotatedFrame

BLOCK = 8
"""Side in pixels of the blocks that rectangles consist of: fast, and a few pixels from best."""

STANDS_OUT = 0.35
"""Share of the annotated cells' difference from the background. A pixel that differs by more may
belong to a cell that is not annotated, so it is not background."""

BLUR = 3.0
"""Standard deviation in pixels of a blur that keeps noise and specks from standing out."""


@dataclass(frozen=True)
class Rectangle:
    """A part of a frame, in pixels."""

    x: int
    y: int
    width: int
    height: int

    @property
    def area(self) -> int:
        """Number of pixels."""
        return self.width * self.height

    @property
    def rows(self) -> slice:
        """Rows of the frame that it covers."""
        return slice(self.y, self.y + self.height)

    @property
    def columns(self) -> slice:
        """Columns of the frame that it covers."""
        return slice(self.x, self.x + self.width)


def background(
    frame: AnnotatedFrame, image: npt.NDArray[Any], margin: int
) -> npt.NDArray[np.bool_]:
    """Find pixels away from annotated cells and from anything that stands out as much.

    Args:
        frame: the annotated cells.
        image: the frame's pixels, ``[H, W]`` or ``[H, W, 3]``.
        margin: distance in pixels along rows and columns.

    Returns:
        bool ``[H, W]``.
    """
    taken = np.zeros((frame.height, frame.width), np.bool_)
    for cell in frame.cells:
        _part(taken, cell)[cell.mask] = True
    free = ~_grown(taken, margin)
    if not frame.cells or not free.any():
        return free
    smooth = cv2.GaussianBlur(np.atleast_3d(image).astype(np.float32), (0, 0), BLUR)
    smooth = smooth.reshape(*free.shape, -1)  # OpenCV drops the axis of a single channel
    difference = np.abs(smooth - np.median(smooth[free], axis=0)).max(axis=2)
    # Only the strongest pixels count: most of a phase-contrast cell is as grey as the background.
    strengths = [np.percentile(_part(difference, cell)[cell.mask], 95) for cell in frame.cells]
    free &= ~_grown(difference > STANDS_OUT * np.median(strengths), margin)
    return free


def _part(image: npt.NDArray[Any], cell: AnnotatedCell) -> npt.NDArray[Any]:
    """Return the pixels under a cell's patch, as a view."""
    height, width = cell.mask.shape
    return image[cell.y : cell.y + height, cell.x : cell.x + width]


def _grown(mask: npt.NDArray[np.bool_], margin: int) -> npt.NDArray[np.bool_]:
    size = 2 * margin + 1
    return np.asarray(cv2.dilate(mask.view(np.uint8), np.ones((size, size), np.uint8)) > 0)


def largest_rectangles(free: npt.NDArray[np.bool_], least_side: int, most: int) -> list[Rectangle]:
    """Return rectangles of free pixels that do not overlap, the largest first.

    Args:
        free: bool ``[H, W]``.
        least_side: minimum width and height in pixels.
        most: maximum number of rectangles.
    """
    height, width = (side // BLOCK * BLOCK for side in free.shape)
    # A block is free if all of its pixels are. Pixels beyond the last whole block are ignored.
    blocks = free[:height, :width].reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    open_blocks = blocks.all(axis=(1, 3))
    least = -(-least_side // BLOCK)
    found: list[Rectangle] = []
    while len(found) < most:
        fitting = [r for r in _maximal(open_blocks) if min(r.width, r.height) >= least]
        if not fitting:
            break
        best = max(fitting, key=lambda rectangle: rectangle.area)
        open_blocks[best.rows, best.columns] = False
        sides = (BLOCK * each for each in (best.x, best.y, best.width, best.height))
        found.append(Rectangle(*sides))
    return found


def _maximal(free: npt.NDArray[np.bool_]) -> Iterator[Rectangle]:
    """Yield every rectangle of free places that cannot grow up, left or right.

    Each row puts the heights of the free columns that end there on a stack (the largest rectangle
    in a histogram). Every rectangle that cannot grow at all is among the results.
    """
    heights = np.zeros(free.shape[1], int)
    for row, line in enumerate(free):
        heights = np.where(line, heights + 1, 0)
        stack: list[tuple[int, int]] = []  # first column, height; heights rise
        for column, height in enumerate([*heights.tolist(), 0]):
            first = column
            while stack and stack[-1][1] >= height:
                first, tall = stack.pop()
                if tall > height:
                    yield Rectangle(first, row - tall + 1, column - first, tall)
            stack.append((first, height))
