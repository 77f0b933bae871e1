"""Measurements of one cell, with the names and rules of scikit-image's ``regionprops``."""

from __future__ import annotations

import math

import cv2
import numpy as np

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


def _axis_lengths(moments: cv2.typing.Moments) -> tuple[float, float]:
    """Return the axis lengths of the ellipse with the same second moments, longest first."""
    area = moments["m00"]
    across, along = moments["mu20"] / area, moments["mu02"] / area
    spread = math.hypot(2 * moments["mu11"] / area, across - along)
    return tuple(  # type: ignore[return-value]  # two signs, two lengths
        4 * math.sqrt(max(0.0, (across + along + sign * spread) / 2)) for sign in (1, -1)
    )
