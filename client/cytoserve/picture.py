"""What every picture for people is made of: the frame at a handy size, and a legend below."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cytoserve.frames import FrameLimits, to_wire

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
"""A picture's long side in pixels: smaller frames are enlarged, larger ones reduced."""

LEVELS = (0.5, 99.5)
"""Percentiles of the frame that are shown black and white."""

_MAX_ENLARGEMENT = 8
_BAND_ROWS = 256  # a large frame is brought to 8 bits band by band
_ANY_SIZE = FrameLimits(sys.maxsize, sys.maxsize, sys.maxsize)  # nothing is sent
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_BACKGROUND, _INK = (24, 24, 24), (235, 235, 235)

Picture = NDArray[np.uint8]
Colour = tuple[int, int, int]


def frame_picture(frame: NDArray[np.generic]) -> Picture:
    """Return uint8 RGB ``[h, w, 3]``: the frame stretched to 8 bits, at a handy size.

    Memory is that of the picture and of a band of the frame, so a ``numpy.memmap`` may be given.

    Args:
        frame: as :func:`cytoserve.frames.to_wire` takes it, of any size.
    """
    height, width = frame.shape[:2]
    side = max(height, width)
    scale = min(float(np.clip(side, *SIDES)) / side, _MAX_ENLARGEMENT)
    shown_height, shown_width = (max(1, round(length * scale)) for length in (height, width))
    low, high = _levels(frame)
    picture = np.empty((height, min(width, shown_width), 3), np.uint8)
    for top in range(0, height, _BAND_ROWS):
        band = _stretched(to_wire(frame[top : top + _BAND_ROWS], _ANY_SIZE), low, high)
        if shown_width < width:  # averaging over areas is separable: columns now, rows at the end
            band = _resized(band, (len(band), shown_width), cv2.INTER_AREA)
        picture[top : top + _BAND_ROWS] = band
    way = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    return _resized(picture, (shown_height, shown_width), way)


def add_legend(picture: Picture, entries: Sequence[tuple[str, Colour]], words: str) -> Picture:
    """Return the picture with a strip of its width below.

    Args:
        picture: uint8 RGB ``[h, w, 3]``.
        entries: text and swatch of every thing that is drawn.
        words: what is said after them.
    """
    width = picture.shape[1]
    size = max(0.4, width / 1600)
    line, gap = round(44 * size), round(14 * size)
    items: list[tuple[str, Colour | None]] = [*entries, (words, None)]
    places, x, y = [], gap, 0
    for text, colour in items:
        wide = cv2.getTextSize(_ascii(text), _FONT, size, 1)[0][0] + (line if colour else 0)
        if x > gap and x + wide > width:
            x, y = gap, y + line
        places.append((x, y))
        x += wide + 2 * gap
    strip = np.full((y + line + gap, width, 3), _BACKGROUND, np.uint8)
    for (text, colour), (x, y) in zip(items, places, strict=True):
        if colour:
            corner = (x + line // 2, y + line - gap // 2)
            cv2.rectangle(strip, (x, y + gap), corner, colour, cv2.FILLED)
            x += line
        thickness = max(1, round(1.6 * size))
        origin = (x, y + line - gap // 2)
        cv2.putText(strip, _ascii(text), origin, _FONT, size, _INK, thickness, cv2.LINE_AA)
    return np.concatenate([picture, strip])


def class_colour(class_id: int) -> Colour:
    """Return the colour of a class by its number from 0 on."""
    return COLOURS[class_id % len(COLOURS)]


def line_width(picture: Picture) -> int:
    """Return the width of lines that are seen at the picture's size, in pixels."""
    return max(2, round(max(picture.shape[:2]) / 600))


def _levels(frame: NDArray[np.generic]) -> tuple[float, float]:
    """The values shown black and white; percentiles need a million pixels at most."""
    stride = max(1, max(frame.shape[:2]) // 1024)
    low, high = np.percentile(to_wire(frame[::stride, ::stride]), LEVELS)
    return float(low), float(high)


def _stretched(frame: NDArray[np.uint16], low: float, high: float) -> Picture:
    """Bring a frame to 8-bit RGB, all channels alike so that hues stay."""
    grey = (frame.astype(np.float32) - np.float32(low)) * np.float32(255 / max(high - low, 1))
    picture = np.clip(grey, 0, 255).astype(np.uint8)
    return np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture


def _resized(picture: Picture, shape: tuple[int, int], way: int) -> Picture:
    if picture.shape[:2] == shape:
        return picture
    resized: NDArray[Any] = cv2.resize(picture, shape[::-1], interpolation=way)
    return resized.astype(np.uint8, copy=False)


def _ascii(text: str) -> str:
    """cv2's font has no other letters."""
    return text.encode("ascii", "replace").decode()
