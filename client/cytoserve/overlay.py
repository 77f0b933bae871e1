"""Draw overlays: the frame with the result as outlines, points and numbers.

Their building blocks are pictures for people: the frame at a handy size, texts, a scale bar, and a
legend below.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cytoserve.cells import Cells
from cytoserve.errors import InvalidSetting
from cytoserve.foreground import Foreground
from cytoserve.frames import FrameLimits, to_wire
from cytoserve.patches import Region

COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (204, 121, 167),
    (0, 114, 178),
)
"""RGB colours of the classes in order, starting again after the last: the palette of Okabe and
Ito, which colour-blind people can tell apart."""

SIDES = (1024, 4096)
"""Limits of a picture's long side, in pixels: smaller frames are enlarged, larger ones reduced."""

DISPLAY_PERCENTILES = (0.5, 99.5)
"""Percentiles of the frame that are shown as black and white."""

SCALE_BAR_SHARE = 0.2
"""Approximate length of a scale bar, as a share of the picture's width."""

_MAX_ENLARGEMENT = 8
_BAND_ROWS = 256  # a large frame is converted to 8 bits band by band
_ANY_SIZE = FrameLimits(sys.maxsize, sys.maxsize, sys.maxsize)  # nothing is sent
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_BACKGROUND, _INK = (24, 24, 24), (235, 235, 235)
_SHADOW, _LIGHT = (0, 0, 0), (255, 255, 255)  # dark around light is visible on any background
_SHIFT = 4  # cv2 draws at 1/16 px
_NUMBER_SHARE = 1 / 3  # height of a number, as a share of the cells' typical diameter
_NUMBER_HEIGHTS = (9, 32)  # smallest and largest number, in picture pixels
_FONT_HEIGHT = 21  # height of a digit in picture pixels, at OpenCV's font scale 1

Picture = NDArray[np.uint8]
Colour = tuple[int, int, int]


def draw_overlay(
    frame: NDArray[np.generic],
    cells: Cells,
    numbers: bool = False,
    pixel_size_um: float | None = None,
) -> Picture:
    """Return uint8 RGB ``[h, w, 3]``: the frame at a handy size, outlines, a legend below.

    The outlines and numbers are those of the cells in the label image.

    Args:
        frame: a frame that :func:`cytoserve.frames.to_wire` accepts.
        cells: the cells found in it.
        numbers: whether every cell carries its number in the label image and the table.
        pixel_size_um: side of a frame pixel in um, for a scale bar; None draws none.

    Raises:
        InvalidSetting: the pixel size is not a positive, finite number.
    """
    picture = frame_picture(frame)
    scale, width = _scale(picture, cells.frame_shape), line_width(picture)
    for class_id, polygon in zip(cells.class_ids, cells.polygons(), strict=True):
        points = _drawn(polygon, scale)
        for colour, wide in ((_SHADOW, width + 2), (class_colour(int(class_id)), width)):
            cv2.polylines(picture, [points], True, colour, wide, cv2.LINE_AA, _SHIFT)
    if numbers:
        _draw_numbers(picture, cells.regions(), scale)
    if pixel_size_um is not None:
        draw_scale_bar(picture, pixel_size_um, float(scale[0]))
    entries = [
        (f"{name} {count}", class_colour(index))
        for index, (name, count) in enumerate(cells.counts().items())
    ]
    total = f"{len(cells)} cells" + (f" of {cells.found} found" if cells.capped else "")
    return add_legend(picture, entries, f"{total} | {_size(cells.frame_shape)}")


def draw_foreground(
    frame: NDArray[np.generic],
    foreground: Foreground,
    numbers: bool = False,
    pixel_size_um: float | None = None,
) -> Picture:
    """Return uint8 RGB ``[h, w, 3]``: the frame at a handy size with mask outline and centres.

    The centres are drawn as points. A legend below shows the coverage and the counts.

    Args:
        frame: a frame that :func:`cytoserve.frames.to_wire` accepts, but of any size.
        foreground: the foreground found in it.
        numbers: whether every component carries its number in the table.
        pixel_size_um: side of a frame pixel in um, for a scale bar; None draws none.

    Raises:
        InvalidSetting: the pixel size is not a positive, finite number.
    """
    picture = frame_picture(frame)
    scale, width = _scale(picture, foreground.frame_shape), line_width(picture)
    size = (picture.shape[1], picture.shape[0])
    mask = cv2.resize(foreground.mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    outline, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    edge, point = class_colour(0), class_colour(1)
    for colour, wide in ((_SHADOW, width + 2), (edge, width)):
        cv2.drawContours(picture, outline, -1, colour, wide, cv2.LINE_AA)
    summary = foreground.summary()
    entries = [(f"{foreground.class_name} {summary['components']} components", edge)]
    if foreground.centres is not None:
        entries.append((f"{summary['nuclei']} nuclei", point))
        for x, y in _drawn(foreground.centres, scale).tolist():
            for colour, radius in ((_SHADOW, 2 * width + 1), (point, 2 * width)):
                cv2.circle(
                    *(picture, (x, y), radius << _SHIFT, colour, cv2.FILLED, cv2.LINE_AA, _SHIFT)
                )
    if numbers:
        _draw_numbers(picture, foreground.components(), scale)
    if pixel_size_um is not None:
        draw_scale_bar(picture, pixel_size_um, float(scale[0]))
    words = (
        f"area fraction {foreground.area_fraction:.4f} | confluency {foreground.confluency:.1f} % "
        f"at {foreground.threshold:g} | {_size(foreground.frame_shape)}"
    )
    return add_legend(picture, entries, words)


def frame_picture(frame: NDArray[np.generic]) -> Picture:
    """Return uint8 RGB ``[h, w, 3]``: the frame stretched to 8 bits, at a handy size.

    The function needs memory for the picture and a band of the frame, so the frame may be a
    ``numpy.memmap``.

    Args:
        frame: a frame that :func:`cytoserve.frames.to_wire` accepts, but of any size.
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
    """Return the picture with a legend below, as wide as the picture.

    Args:
        picture: uint8 RGB ``[h, w, 3]``.
        entries: text and colour of every kind of thing that is drawn.
        words: text after the entries.
    """
    width = picture.shape[1]
    size = max(0.4, width / 1600)
    line, gap = round(44 * size), round(14 * size)
    items: list[tuple[str, Colour | None]] = [*entries, (words, None)]
    places, x, y = [], gap, 0
    for text, colour in items:
        wide = _text_size(text, size)[0] + (line if colour else 0)
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
        origin = (x, y + line - gap // 2)
        cv2.putText(strip, _ascii(text), origin, _FONT, size, _INK, _text_line(size), cv2.LINE_AA)
    return np.concatenate([picture, strip])


def draw_text(picture: Picture, text: str, x: float, y: float, size: float) -> None:
    """Draw white letters with a dark rim around the point (x, y), in picture pixels.

    Args:
        picture: uint8 RGB ``[h, w, 3]``, drawn on.
        text: the text to write.
        x, y: the middle of the text, which is moved if the text would extend beyond the picture.
        size: OpenCV's font scale; 1 is about 21 px high.
    """
    width, height = _text_size(text, size)
    left = round(min(max(x - width / 2, 1), max(1, picture.shape[1] - width - 1)))
    base = round(min(max(y + height / 2, height + 1), max(height + 1, picture.shape[0] - 2)))
    line = _text_line(size)
    for colour, wide in ((_SHADOW, 2 * line + 1), (_LIGHT, line)):
        cv2.putText(picture, _ascii(text), (left, base), _FONT, size, colour, wide, cv2.LINE_AA)


def draw_scale_bar(picture: Picture, pixel_size_um: float, scale: float = 1.0) -> None:
    """Draw a bar of a round length, and its text, into the lower right corner.

    The length is 1, 2 or 5 times a power of ten in um, whichever is nearest to a fifth of the
    picture's width.

    Args:
        picture: uint8 RGB ``[h, w, 3]``, drawn on.
        pixel_size_um: side of a frame pixel in um.
        scale: picture pixels per frame pixel.

    Raises:
        InvalidSetting: the pixel size is not a positive, finite number.
    """
    if not (math.isfinite(pixel_size_um) and pixel_size_um > 0):
        raise InvalidSetting(
            "pixel_size_um is the side of a frame pixel in um, a finite number above 0; given: "
            f"{pixel_size_um!r}. Pass what the microscope's software tells, or None for no bar."
        )
    height, width = picture.shape[:2]
    length_um = _round_length(SCALE_BAR_SHARE * width / scale * pixel_size_um)
    length = max(1, round(length_um / pixel_size_um * scale))
    thick, gap = max(3, width // 200), max(2, width // 50)
    right, bottom = width - 1 - gap, height - 1 - gap
    left, top = right + 1 - length, bottom + 1 - thick
    cv2.rectangle(picture, (left - 1, top - 1), (right + 1, bottom + 1), _SHADOW, cv2.FILLED)
    cv2.rectangle(picture, (left, top), (right, bottom), _LIGHT, cv2.FILLED)
    size = max(0.4, width / 1600)
    above = top - gap - _text_size("0", size)[1] / 2
    draw_text(picture, f"{length_um:.15g} um", (left + right) / 2, above, size)


def class_colour(class_id: int) -> Colour:
    """Return the colour of a class; ``class_id`` counts from 0."""
    return COLOURS[class_id % len(COLOURS)]


def line_width(picture: Picture) -> int:
    """Return a line width in pixels that is visible at the picture's size."""
    return max(2, round(max(picture.shape[:2]) / 600))


def _draw_numbers(picture: Picture, regions: Iterable[Region], scale: NDArray[np.float64]) -> None:
    """Draw the number of every region on one of its pixels, near its middle."""
    places, areas = [], []
    for number, region in enumerate(regions, 1):
        if region.mask.any():
            places.append((number, _middle(region) * scale))
            areas.append(np.count_nonzero(region.mask))
    diameter = np.sqrt(np.median(areas) * scale.prod() * 4 / np.pi) if areas else 0
    size = float(np.clip(_NUMBER_SHARE * diameter, *_NUMBER_HEIGHTS)) / _FONT_HEIGHT
    for number, (x, y) in places:
        draw_text(picture, str(number), float(x), float(y), size)


def _middle(region: Region) -> NDArray[np.float64]:
    """Return the centre (x, y), in frame pixels, of the pixel nearest to the centroid.

    The centroid itself may lie outside a bent cell.
    """
    pixels = np.argwhere(region.mask) + 0.5
    nearest = pixels[np.square(pixels - pixels.mean(axis=0)).sum(axis=1).argmin()]
    return np.array([region.columns.start + nearest[1], region.rows.start + nearest[0]])


def _scale(picture: Picture, frame_shape: tuple[int, int]) -> NDArray[np.float64]:
    """Return the picture pixels per frame pixel, along x and y."""
    return np.array([picture.shape[1] / frame_shape[1], picture.shape[0] / frame_shape[0]])


def _drawn(points: NDArray[np.float32], scale: NDArray[np.float64]) -> NDArray[np.int32]:
    """Convert frame pixels to cv2's, which have their centre at i instead of i + 0.5."""
    drawn: NDArray[np.int32] = np.rint((points * scale - 0.5) * 2**_SHIFT).astype(np.int32)
    return drawn


def _size(frame_shape: tuple[int, int]) -> str:
    height, width = frame_shape
    return f"{width} x {height} px"


def _levels(frame: NDArray[np.generic]) -> tuple[float, float]:
    """Return the values shown as black and white, from at most about a million pixels."""
    stride = max(1, max(frame.shape[:2]) // 1024)
    low, high = np.percentile(to_wire(frame[::stride, ::stride]), DISPLAY_PERCENTILES)
    return float(low), float(high)


def _stretched(frame: NDArray[np.uint16], low: float, high: float) -> Picture:
    """Convert a frame to 8-bit RGB, with the same stretch for all channels to preserve hues."""
    grey = (frame.astype(np.float32) - np.float32(low)) * np.float32(255 / max(high - low, 1))
    picture = np.clip(grey, 0, 255).astype(np.uint8)
    return np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture


def _resized(picture: Picture, shape: tuple[int, int], way: int) -> Picture:
    if picture.shape[:2] == shape:
        return picture
    resized: NDArray[Any] = cv2.resize(picture, shape[::-1], interpolation=way)
    return resized.astype(np.uint8, copy=False)


def _round_length(length: float) -> float:
    """Return the 1, 2 or 5 times a power of ten that is nearest to a length, by ratio."""
    exponent = math.floor(math.log10(length))
    rounds = [float(f"{first}e{exponent + more}") for more in (0, 1) for first in (1, 2, 5)]
    return min(rounds, key=lambda each: abs(math.log(each / length)))


def _text_size(text: str, size: float) -> tuple[int, int]:
    """Return the width and height of a text in pixels."""
    width, height = cv2.getTextSize(_ascii(text), _FONT, size, _text_line(size))[0]
    return width, height


def _text_line(size: float) -> int:
    return max(1, round(1.6 * size))


def _ascii(text: str) -> str:
    """Replace the letters that cv2's font does not have."""
    return text.encode("ascii", "replace").decode()
