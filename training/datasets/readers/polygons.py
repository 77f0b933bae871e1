"""Conversion of polygons to mask patches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from training.datasets.annotated import AnnotatedCell

OUTSIDE = 0.1
"""Largest distance of a point outside the frame, in sides of the frame. The cell is clipped."""


def cell_from_polygons(
    polygons: Sequence[npt.NDArray[np.float64]], class_id: int, height: int, width: int
) -> AnnotatedCell:
    """Fill ``polygons``, each ``[P, 2]`` (x, y) in frame pixels, into one cell: their union.

    Only the window around them is rasterised, by COCO's own rule. Points must be finite. Raises
    ValueError with the reason if they form no cell in a frame of ``height`` x ``width``.
    """
    points = np.concatenate(polygons)
    size = np.array([width, height])
    if np.any(points < -OUTSIDE * size) or np.any(points > (1 + OUTSIDE) * size):
        raise ValueError(
            f"has points from {_point(points.min(axis=0))} to {_point(points.max(axis=0))}, far "
            f"outside the frame of {width} x {height} pixels; scale the points to this image"
        )
    first = np.clip(np.floor(points.min(axis=0)), 0, size - 1).astype(int)
    end = np.clip(np.ceil(points.max(axis=0)), first + 1, size).astype(int)
    rows, columns = int(end[1] - first[1]), int(end[0] - first[0])
    shifted = [(polygon - first).ravel().tolist() for polygon in polygons]
    runs = coco_mask.merge(coco_mask.frPyObjects(shifted, rows, columns))
    patch = coco_mask.decode(runs).astype(bool)
    if not patch.any():
        raise ValueError("covers no pixel of the frame; remove it or draw it larger")
    return AnnotatedCell.cut(patch, class_id, x=int(first[0]), y=int(first[1]))


def polygon_points(numbers: Sequence[float]) -> npt.NDArray[np.float64]:
    """Convert ``x y x y ...`` to ``[P, 2]``. Raises ValueError for an odd count or P < 3."""
    if len(numbers) % 2:
        raise ValueError(
            f"has a polygon of {len(numbers)} numbers, which is odd; give x and y of every point"
        )
    if len(numbers) < 6:
        raise ValueError(
            f"has a polygon of {len(numbers) // 2} points; an outline needs at least 3"
        )
    return np.asarray(numbers, dtype=np.float64).reshape(-1, 2)


def _point(point: npt.NDArray[np.float64]) -> str:
    return f"({point[0]:g}, {point[1]:g})"
