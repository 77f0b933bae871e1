"""Convert the values of an image file to those of a frame, if they fit without a loss.

A frame is uint8, uint16, or float within 0..1. Files also have whole numbers as signed, 32-bit or
float data, as analysis programs write them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoserve.errors import UnsupportedImage
from cytoserve.frames import WIRE_WHITE, FrameLimits, check_layout, check_values

FINE_COUNTS = 256
"""Floats with a fraction are rounded if the largest is at least this: 8 bits of it are kept."""

_AS_IT_IS = (np.dtype(np.uint8), np.dtype(np.uint16))
_REMEDY = "Save it with 16 bits, such as with Image > Type > 16-bit of ImageJ."
_BLOCK_ROWS = 1024


def check_stored_layout(shape: tuple[int, ...], dtype: np.dtype[Any], limits: FrameLimits) -> None:
    """Check a plane of a file before it is decoded.

    Raises:
        UnsupportedImage: the shape or dtype is not accepted.
        FrameTooLarge: the plane exceeds ``limits``.
    """
    if dtype.kind in "iu":  # whether the values fit is seen when they are read
        dtype = np.dtype(np.uint16)
    check_layout(shape, dtype, limits)


def camera_values(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return stored pixels as a frame: uint8, uint16, or floats within 0..1.

    * uint8, uint16 and floats within 0..1 stay as they are.
    * Other whole numbers within 0..65535, whatever their dtype, become uint16, values unchanged.
    * Floats with a fraction become uint16, rounded, if the largest is 256 to 65535.

    Raises:
        UnsupportedImage: the values do not fit; the message gives their range.
    """
    if pixels.dtype.newbyteorder("=") in _AS_IT_IS:
        return pixels
    if pixels.dtype.kind not in "iuf" or pixels.size == 0:
        raise UnsupportedImage(
            f"A frame is uint8, uint16, or float within 0..1; given: dtype {pixels.dtype}. "
            f"{_REMEDY}"
        )
    low, high = pixels.min(), pixels.max()
    if pixels.dtype.kind == "f":
        return _floats(pixels, float(low), float(high))
    if low < 0 or high > WIRE_WHITE:
        raise UnsupportedImage(
            f"A frame has values within 0..{WIRE_WHITE}; given: {pixels.dtype} from {low} "
            f"to {high}. {_REMEDY}"
        )
    return pixels.astype(np.uint8 if pixels.dtype.itemsize == 1 else np.uint16)


def _floats(pixels: NDArray[Any], low: float, high: float) -> NDArray[Any]:
    if not np.isfinite(low) or not np.isfinite(high):
        check_values(pixels)  # tells how many are not finite
    if low >= 0 and high <= 1:
        return pixels
    if low < 0 or high > WIRE_WHITE:
        raise UnsupportedImage(
            f"A float frame is within 0..1, or has counts within 0..{WIRE_WHITE}; given: "
            f"{pixels.dtype} from {low:g} to {high:g}. {_REMEDY}"
        )
    if high < FINE_COUNTS and not _is_whole(pixels):
        raise UnsupportedImage(
            f"A float frame is within 0..1, or has counts; given: {pixels.dtype} from {low:g} to "
            f"{high:g} with fractions, which rounding would lose. Scale it to 0..1, or save it "
            "with 16 bits."
        )
    counts: NDArray[np.uint16] = np.rint(pixels).astype(np.uint16)
    return counts


def _is_whole(pixels: NDArray[Any]) -> bool:
    blocks = (pixels[top : top + _BLOCK_ROWS] for top in range(0, len(pixels), _BLOCK_ROWS))
    return all(bool((block == np.rint(block)).all()) for block in blocks)
