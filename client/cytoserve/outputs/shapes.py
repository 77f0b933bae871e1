"""Outlines of cells and components as polygons, for formats that store no pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cytoserve.cells import Cells
from cytoserve.foreground import Foreground
from cytoserve.patches import Region

_ZOOM = 2  # samples per pixel side: each lies a quarter pixel inside the edge it is rounded to

Ring = NDArray[np.float32]
"""float32 ``[P, 2]``, (x, y) in continuous frame pixels, P of 3 at least, closed from the last
point to the first."""


@dataclass(frozen=True)
class Shape:
    """One cell or component with a pixel.

    Attributes:
        label: its number in the label image.
        outline: its outer outline.
        holes: the outlines of its holes.
    """

    label: int
    outline: Ring
    holes: tuple[Ring, ...] = ()


def shapes(found: Cells | Foreground) -> Iterator[Shape]:
    """Yield the shape of every cell or component, in order; what owns no pixel has none.

    A cell has the outline of :meth:`cytoserve.Cells.polygons`, without holes. Where that encloses
    nothing, and for the components of a foreground, the outline follows the sides of the pixels.
    The components keep their holes. An outline may touch itself where pixels are joined by a corner
    only, which strict readers of polygons call invalid.
    """
    if isinstance(found, Foreground):
        for label, region in enumerate(found.components(), 1):
            yield Shape(label, *pixel_outline(region))
        return
    for label, (polygon, region) in enumerate(
        zip(found.polygons(), found.regions(), strict=True), 1
    ):
        if not region.mask.size:
            continue
        if len(polygon) < 3 or cv2.contourArea(polygon) == 0:
            polygon = pixel_outline(region)[0]
        yield Shape(label, polygon)


def pixel_outline(region: Region) -> tuple[Ring, tuple[Ring, ...]]:
    """Return the outer outline of an 8-connected region, and its holes, along pixel sides.

    Filled by the even-odd rule, they give the region's pixels.

    Args:
        region: a region with one pixel at least.
    """
    height, width = region.mask.shape
    fine = cv2.resize(
        region.mask.view(np.uint8),
        (width * _ZOOM, height * _ZOOM),
        interpolation=cv2.INTER_NEAREST,
    )
    contours, tree = cv2.findContours(fine, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    corner = (region.columns.start, region.rows.start)
    rings = [_corners(contour[:, 0]) + corner for contour in contours]
    outer = [ring for ring, (*_, parent) in zip(rings, tree[0], strict=True) if parent < 0]
    holes = [ring for ring, (*_, parent) in zip(rings, tree[0], strict=True) if parent >= 0]
    return outer[0].astype(np.float32), tuple(hole.astype(np.float32) for hole in holes)


def _corners(samples: NDArray[Any]) -> NDArray[np.float64]:
    """Move samples to the nearest pixel corners; keep those where the outline turns."""
    points = np.rint((samples + 0.5) / _ZOOM)
    points = points[(points != np.roll(points, 1, axis=0)).any(axis=1)]
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    turns: NDArray[np.float64] = points[
        before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0] != 0
    ]
    return turns
