"""Polygons and run lengths of annotations as masks.

Runs count pixels down the columns of the frame, background first. pycocotools decodes them into
whole frames and trusts the compressed text, so malformed text makes it read and write outside its
buffers. Here the runs are checked first, and only the cell's own pixels are decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from cytoserve.patches import Region, run_lengths
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


def cell_from_rle(
    counts: str | Sequence[int], class_id: int, height: int, width: int
) -> AnnotatedCell:
    """Decode ``counts``, compressed text or a list, in a frame of ``height`` x ``width``.

    Raises ValueError with the reason if the runs do not fill the frame or contain no pixel.
    """
    runs = _uncompressed(counts) if isinstance(counts, str) else list(counts)
    if any(run < 0 for run in runs) or sum(runs) != height * width:
        raise ValueError(
            f"has runs that cover {sum(runs)} pixels where the frame of {width} x {height} has "
            f"{height * width}; encode the mask at the size of its image"
        )
    edges = np.cumsum([0, *runs])
    starts, lengths = edges[1:-1:2], np.asarray(runs[1::2], dtype=int)
    if not lengths.sum():
        raise ValueError("has a mask without a pixel; remove the annotation")
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    flat = np.repeat(starts, lengths) + within
    columns, rows = np.divmod(flat, height)
    x, y = int(columns.min()), int(rows.min())
    patch = np.zeros((int(rows.max()) - y + 1, int(columns.max()) - x + 1), dtype=bool)
    patch[rows - y, columns - x] = True
    return AnnotatedCell(x, y, patch, class_id)


def rle_from_cell(cell: AnnotatedCell, height: int, width: int) -> dict[str, Any]:
    """Encode ``cell`` as COCO's compressed ``{"size": [height, width], "counts": text}``."""
    rows, columns = cell.mask.shape
    region = Region(slice(cell.y, cell.y + rows), slice(cell.x, cell.x + columns), cell.mask)
    runs = {"size": [height, width], "counts": run_lengths(region, (height, width))}
    compressed = coco_mask.frPyObjects(runs, height, width)
    return {"size": [height, width], "counts": compressed["counts"].decode("ascii")}


def _uncompressed(text: str) -> list[int]:
    """Decode COCO's text: 5 bits per character, and differences from the third run on."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64:
            raise ValueError(f"has the character {character!r} in its RLE; encode the mask again")
        value |= (code & 0x1F) << shift
        shift += 5
        if code & 0x20:  # the number continues
            continue
        if code & 0x10:  # the sign
            value -= 1 << shift
        if len(runs) > 2:
            value += runs[-2]
        runs.append(value)
        value = shift = 0
    if shift:
        raise ValueError("has an RLE that ends within a number; encode the mask again")
    return runs
