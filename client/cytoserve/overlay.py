"""Draw overlays: the frame with the result as outlines, points and numbers."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from cytoserve.cells import Cells
from cytoserve.foreground import Foreground
from cytoserve.patches import Region
from cytoserve.picture import (
    Colour,
    Picture,
    add_legend,
    class_colour,
    draw_scale_bar,
    draw_text,
    frame_picture,
    line_width,
)

_SHIFT = 4  # cv2 draws at 1/16 px
_SHADOW: Colour = (0, 0, 0)  # under every line, so that it is visible on any background
_NUMBER_SHARE = 1 / 3  # height of a number, as a share of the cells' typical diameter
_NUMBER_HEIGHTS = (9, 32)  # smallest and largest number, in picture pixels
_FONT_HEIGHT = 21  # height of a digit in picture pixels, at OpenCV's font scale 1


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
