"""COCO run-length encoding of one cell: converts between runs over a frame and a mask patch.

Runs count pixels down the columns of the frame, background first. pycocotools decodes them into
whole frames and trusts the compressed text, so malformed text makes it read and write outside its
buffers. Here the runs are checked first, and only the cell's own pixels are decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from cytoserve.patches import Region, run_lengths
from training.datasets.annotated import AnnotatedCell


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
