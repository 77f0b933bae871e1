"""Measurements of one cell, with the names and rules of scikit-image's ``regionprops``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cytoserve.patches import Region

MEASUREMENTS = (
    "area",
    "bbox-0",
    "bbox-1",
    "bbox-2",
    "bbox-3",
    "centroid-0",
    "centroid-1",
    "equivalent_diameter_area",
    "axis_major_length",
    "axis_minor_length",
    "eccentricity",
)
"""Names of the measured columns. As in scikit-image, 0 is the row and 1 the column, the bounding
box is half-open, and a pixel's centre is its index (``i``, not ``i + 0.5``). All are in frame
pixels except ``eccentricity``, which is 0 for a circle and below 1 for an ellipse."""

INTENSITIES = ("intensity_mean", "intensity_min", "intensity_max")
"""Names of the measured columns of a channel. ``-`` and the channel's name follow. For channels
without names ``-`` and a number from 0 follow, as in scikit-image, or nothing for a single one."""

AREAS = ("area",)
"""Columns that are also given in um², with the ending ``_um2``."""

LENGTHS = ("equivalent_diameter_area", "axis_major_length", "axis_minor_length")
"""Columns that are also given in um, with the ending ``_um``."""


def measure(region: Region) -> tuple[float, ...]:
    """Measure one cell: return the values of :data:`MEASUREMENTS`.

    A cell without a pixel has the area 0 and otherwise NaN.
    """
    moments = cv2.moments(region.mask.astype(np.uint8), binaryImage=True)
    area = moments["m00"]
    if area == 0:
        return (0.0, *[math.nan] * (len(MEASUREMENTS) - 1))
    top, left = region.rows.start, region.columns.start
    rows = np.flatnonzero(region.mask.any(axis=1)) + top
    columns = np.flatnonzero(region.mask.any(axis=0)) + left
    major, minor = _axis_lengths(moments)
    return (
        area,
        *(float(rows[0]), float(columns[0]), float(rows[-1]) + 1, float(columns[-1]) + 1),
        moments["m01"] / area + top,
        moments["m10"] / area + left,
        math.sqrt(4 * area / math.pi),
        major,
        minor,
        math.sqrt(max(0.0, 1 - (minor / major) ** 2)) if major > 0 else 0.0,
    )


def measure_intensities(
    regions: Iterable[Region], frame: NDArray[Any], channels: Sequence[str] = ()
) -> dict[str, NDArray[np.float64]]:
    """Measure the frame inside every region: return columns with one row per region.

    Args:
        regions: the pixels of every cell.
        frame: ``[H, W]`` or ``[H, W, C]``.
        channels: names of its channels. Other names are used if they are not one per channel, or
            not unique.

    Returns:
        :data:`INTENSITIES` of every channel, in its units; NaN for a region without a pixel.
    """
    planes = frame[..., None] if frame.ndim == 2 else frame
    number = planes.shape[2]
    if len(set(channels)) != number or len(channels) != number:
        channels = [str(index) for index in range(number)] if number > 1 else [""]
    rows = [_intensities(planes, region) for region in regions]
    values = np.array(rows, np.float64).reshape(len(rows), len(INTENSITIES), number)
    return {
        f"{name}-{channel}" if channel else name: values[:, row, column]
        for row, name in enumerate(INTENSITIES)
        for column, channel in enumerate(channels)
    }


def in_micrometres(
    columns: Mapping[str, NDArray[Any]], pixel_size_um: float
) -> dict[str, NDArray[np.float64]]:
    """Return areas in um² and lengths in um for the columns of a table in pixels.

    Args:
        columns: a table with :data:`MEASUREMENTS`.
        pixel_size_um: side of a frame pixel in micrometres.
    """
    return {f"{name}_um2": columns[name] * pixel_size_um**2 for name in AREAS} | {
        f"{name}_um": columns[name] * pixel_size_um for name in LENGTHS
    }


def _intensities(planes: NDArray[Any], region: Region) -> NDArray[np.float64]:
    """Return mean, least and greatest value of each channel: ``[3, C]``."""
    values = planes[region.rows, region.columns][region.mask]
    if not len(values):
        return np.full((len(INTENSITIES), planes.shape[2]), math.nan)
    return np.stack([values.mean(0, np.float64), values.min(0), values.max(0)])


def _axis_lengths(moments: cv2.typing.Moments) -> tuple[float, float]:
    """Return the axis lengths of the ellipse with the same second moments, longest first."""
    area = moments["m00"]
    across, along = moments["mu20"] / area, moments["mu02"] / area
    spread = math.hypot(2 * moments["mu11"] / area, across - along)
    return tuple(  # type: ignore[return-value]  # two signs, two lengths
        4 * math.sqrt(max(0.0, (across + along + sign * spread) / 2)) for sign in (1, -1)
    )
