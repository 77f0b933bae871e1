"""Which arrays are frames, and how a frame looks on the wire.

Accepted are numpy arrays ``[H, W]``, ``[H, W, 1]`` (grey) and ``[H, W, 3]`` (RGB) of

* ``uint16``: sent as it is;
* ``uint8``: widened to ``uint16``, values unchanged;
* any real float: finite and within 0..1, scaled by 65535 and rounded.

The pipelines normalise by percentiles, so the scale itself does not change the answer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoserve.contract import MAX_FRAME_BYTES, MAX_SIDE
from cytoserve.errors import FrameTooLarge, UnsupportedImage

FrameShape = tuple[int, int, int]

_WIRE = np.dtype(np.uint16)


def to_wire(image: NDArray[np.generic]) -> NDArray[np.uint16]:
    """Return ``image`` as it goes to the server: C-contiguous uint16 ``[H, W, C]``, C = 1 or 3.

    Limits are checked before anything is copied.

    Raises:
        UnsupportedImage: not a numpy array, or of another shape, dtype or range.
        FrameTooLarge: beyond ``MAX_SIDE`` or ``MAX_FRAME_BYTES``.
    """
    if not isinstance(image, np.ndarray):
        raise UnsupportedImage(
            f"A frame is a numpy array; given: {type(image).__name__}. "
            "Convert it with numpy.asarray(...)."
        )
    height, width, channels = check_frame(image.shape, image.dtype)
    frame = _scaled(image) if image.dtype.kind == "f" else np.asarray(image)
    return np.ascontiguousarray(frame.reshape(height, width, channels), dtype=_WIRE)


def check_frame(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> FrameShape:
    """Check shape, dtype and size of a frame without touching a pixel; return ``(H, W, C)``.

    Raises:
        UnsupportedImage: no frame has this shape or dtype.
        FrameTooLarge: beyond ``MAX_SIDE`` or ``MAX_FRAME_BYTES``.
    """
    frame_shape = _frame_shape(shape, dtype)
    if dtype.kind != "f" and dtype.newbyteorder("=") not in (np.dtype(np.uint8), _WIRE):
        raise UnsupportedImage(
            f"A frame is uint8, uint16, or float within 0..1; given: {_described(shape, dtype)}. "
            f"{_dtype_remedy(dtype)}"
        )
    check_size(frame_shape)
    return frame_shape


def check_size(frame_shape: FrameShape) -> None:
    """Check ``(H, W, C)`` against the limits of one request.

    Raises:
        FrameTooLarge: beyond ``MAX_SIDE`` or ``MAX_FRAME_BYTES``.
    """
    height, width, channels = frame_shape
    size = height * width * channels * _WIRE.itemsize
    if max(height, width) > MAX_SIDE or size > MAX_FRAME_BYTES:
        raise FrameTooLarge(
            f"A frame has sides of at most {MAX_SIDE} px and {MAX_FRAME_BYTES:,} bytes as uint16; "
            f"given: {height} x {width} x {channels}, {size:,} bytes. "
            "Cut it into fields, or bin it."
        )


def _frame_shape(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> FrameShape:
    if len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3)):
        if 0 in shape:
            raise UnsupportedImage(
                f"A frame has at least one pixel; given: {_described(shape, dtype)}. "
                "Check how it was cut or read."
            )
        height, width, channels = (*shape, 1)[:3]
        return height, width, channels
    raise UnsupportedImage(
        "A frame is [H, W], [H, W, 1] or [H, W, 3] (RGB); "
        f"given: {_described(shape, dtype)}. {_shape_remedy(shape)}"
    )


def _scaled(frame: NDArray[np.generic]) -> NDArray[Any]:
    """Bring floats of 0..1 to 0..65535."""
    values: NDArray[Any] = np.asarray(frame).astype(np.promote_types(frame.dtype, np.float32))
    low, high = values.min(), values.max()  # NaN if any value is
    if not (low >= 0 and high <= 1):
        unfit = int(np.count_nonzero(~np.isfinite(values)))
        raise UnsupportedImage(
            "A float frame is finite and within 0..1; given: "
            f"{_described(frame.shape, frame.dtype)}, from {low:g} to {high:g}, {unfit} values NaN "
            "or infinite. Pass the camera's integers, or scale it: "
            "(image - image.min()) / numpy.ptp(image)."
        )
    values *= np.iinfo(_WIRE).max
    np.rint(values, out=values)
    return values


def _described(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> str:
    return f"shape {shape}, dtype {dtype}"


def _shape_remedy(shape: tuple[int, ...]) -> str:
    if len(shape) == 3 and shape[2] == 4:
        return "Drop the alpha channel: image[..., :3]."
    if len(shape) == 3 and shape[0] == 3:
        return "Put the channels last: numpy.moveaxis(image, 0, -1)."
    if len(shape) >= 3:
        return "Pass one plane or one channel at a time, such as image[0]."
    return "Pass one whole plane."


def _dtype_remedy(dtype: np.dtype[np.generic]) -> str:
    if dtype.kind in "iu":
        return "If all values are within 0..65535, use image.astype(numpy.uint16)."
    if dtype.kind == "b":
        return "A mask is no camera frame; pass the frame itself."
    return "Pass the camera's own values."
