"""A picture for people: the frame, every cell's outline in its class's colour, and a legend."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cytoserve.cells import Cells
from cytoserve.frames import to_wire

COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (204, 121, 167),
    (0, 114, 178),
)
"""RGB of the classes in order, again from the first beyond the last: the palette of Okabe and
Ito, which colour-blind people can tell apart."""

SIDES = (1024, 4096)
"""The overlay's long side in pixels: smaller frames are enlarged, larger ones reduced."""

LEVELS = (0.5, 99.5)
"""Percentiles of the frame that are shown black and white."""

_MAX_ENLARGEMENT = 8
_SHIFT = 4  # cv2 draws at 1/16 px
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_BACKGROUND, _INK = (24, 24, 24), (235, 235, 235)

Picture = NDArray[np.uint8]
Colour = tuple[int, int, int]


def draw_overlay(frame: NDArray[np.generic], cells: Cells) -> Picture:
    """Return uint8 RGB ``[h, w, 3]``: the frame at a handy size, outlines, the legend below.

    Args:
        frame: as :func:`cytoserve.frames.to_wire` takes it.
        cells: what was found in it.
    """
    picture = _enlarged(_stretched(to_wire(frame)))
    height, width = picture.shape[:2]
    scale = np.array([width / cells.frame_shape[1], height / cells.frame_shape[0]])
    thickness = max(2, round(max(height, width) / 600))
    for class_id, polygon in zip(cells.class_ids, cells.polygons(), strict=True):
        # cv2 puts a pixel's centre at i, we put it at i + 0.5.
        points = np.rint((polygon * scale - 0.5) * 2**_SHIFT).astype(np.int32)
        for colour, lines in (((0, 0, 0), thickness + 2), (_colour(int(class_id)), thickness)):
            cv2.polylines(picture, [points], True, colour, lines, cv2.LINE_AA, _SHIFT)
    return np.concatenate([picture, _legend(cells, width)])


def _stretched(frame: NDArray[np.uint16]) -> Picture:
    """Bring a frame to 8-bit RGB by percentiles, all channels alike so that hues stay."""
    low, high = np.percentile(frame[:: _stride(frame), :: _stride(frame)], LEVELS)
    grey = (frame.astype(np.float32) - low) * (255 / max(high - low, 1))
    picture = np.clip(grey, 0, 255).astype(np.uint8)
    return np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture


def _stride(frame: NDArray[np.uint16]) -> int:
    """Percentiles need a million pixels at most."""
    return max(1, max(frame.shape[:2]) // 1024)


def _enlarged(picture: Picture) -> Picture:
    side = max(picture.shape[:2])
    scale = min(float(np.clip(side, *SIDES)) / side, _MAX_ENLARGEMENT)
    if scale == 1:
        return picture
    height, width = (max(1, round(length * scale)) for length in picture.shape[:2])
    way = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    resized: NDArray[Any] = cv2.resize(picture, (width, height), interpolation=way)
    return resized.astype(np.uint8)


def _legend(cells: Cells, width: int) -> Picture:
    """Return a strip as wide as the picture: a swatch, name and count for every class."""
    size = max(0.4, width / 1600)
    line, gap = round(44 * size), round(14 * size)
    entries: list[tuple[str, Colour | None]] = [
        (f"{name} {count}", _colour(index))
        for index, (name, count) in enumerate(cells.counts().items())
    ]
    height, frame_width = cells.frame_shape
    total = f"{len(cells)} cells" + (f" of {cells.found} found" if cells.capped else "")
    entries.append((f"{total} | {frame_width} x {height} px", None))
    places, x, y = [], gap, 0
    for text, colour in entries:
        wide = cv2.getTextSize(_ascii(text), _FONT, size, 1)[0][0] + (line if colour else 0)
        if x > gap and x + wide > width:
            x, y = gap, y + line
        places.append((x, y))
        x += wide + 2 * gap
    strip = np.full((y + line + gap, width, 3), _BACKGROUND, np.uint8)
    for (text, colour), (x, y) in zip(entries, places, strict=True):
        if colour:
            corner = (x + line // 2, y + line - gap // 2)
            cv2.rectangle(strip, (x, y + gap), corner, colour, cv2.FILLED)
            x += line
        thickness = max(1, round(1.6 * size))
        origin = (x, y + line - gap // 2)
        cv2.putText(strip, _ascii(text), origin, _FONT, size, _INK, thickness, cv2.LINE_AA)
    return strip


def _colour(class_id: int) -> Colour:
    return COLOURS[class_id % len(COLOURS)]


def _ascii(text: str) -> str:
    """cv2's font has no other letters."""
    return text.encode("ascii", "replace").decode()
