"""Check which arrays are frames, and convert frames for the wire.

Accepted are numpy arrays ``[H, W]``, ``[H, W, 1]`` (grey) and ``[H, W, 3]`` (RGB) of

* ``uint16``: sent unchanged;
* ``uint8``: widened to ``uint16``, values unchanged;
* any real float that is finite and within 0..1: scaled by 65535 and rounded.

Most pipelines normalise by percentiles, so the scale of the values does not change their answer.
Pipelines with ``contract.WHITE_LEVEL_INPUT`` receive it as an input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoserve.contract import MAX_FRAME_BYTES, MAX_SIDE, Pipeline
from cytoserve.errors import FrameTooLarge, UnsupportedImage

FrameShape = tuple[int, int, int]

_WIRE = np.dtype(np.uint16)

WIRE_WHITE = int(np.iinfo(_WIRE).max)
"""Value on the wire that represents 1.0 of a float frame."""

_BLOCK_VALUES = 4_000_000  # float checks go by block, so a memory-mapped frame is never loaded


@dataclass(frozen=True)
class FrameLimits:
    """How large a frame may be.

    Attributes:
        side: longest side in pixels.
        pixels: maximum number of pixels, ``H * W``.
        size: maximum number of bytes as uint16, ``2 * H * W * C``.
        taker: words in error messages that name the pipeline, such as `` for glioma_unet``.
    """

    side: int
    pixels: int
    size: int
    taker: str = ""

    def allow(self, frame_shape: FrameShape) -> bool:
        """Whether a frame ``(H, W, C)`` is within the limits."""
        height, width, _ = frame_shape
        return (
            max(height, width) <= self.side
            and height * width <= self.pixels
            and _bytes(frame_shape) <= self.size
        )

    def check(self, frame_shape: FrameShape) -> None:
        """Check a frame ``(H, W, C)``.

        Raises:
            FrameTooLarge: the frame exceeds a limit.
        """
        if not self.allow(frame_shape):
            height, width, channels = frame_shape
            raise FrameTooLarge(
                f"A frame{self.taker} has sides of at most {self.side} px, at most "
                f"{self.pixels:,} pixels, and {self.size:,} bytes as uint16; given: {height} x "
                f"{width} x {channels}, {height * width:,} pixels, {_bytes(frame_shape):,} bytes. "
                "Cut it into fields, or bin it."
            )


ONE_REQUEST = FrameLimits(MAX_SIDE, MAX_SIDE * MAX_SIDE, MAX_FRAME_BYTES)
"""Limits of every request, whatever the pipeline."""


def request_limits(pipeline: Pipeline) -> FrameLimits:
    """Return the limits of one request to ``pipeline``."""
    return FrameLimits(MAX_SIDE, pipeline.max_pixels, MAX_FRAME_BYTES, f" for {pipeline.name}")


def to_wire(image: NDArray[np.generic], limits: FrameLimits = ONE_REQUEST) -> NDArray[np.uint16]:
    """Convert ``image`` for the server: C-contiguous uint16 ``[H, W, C]``, C = 1 or 3.

    The limits are checked before anything is copied.

    Raises:
        UnsupportedImage: not a numpy array, or the shape, dtype or range is not accepted.
        FrameTooLarge: the frame exceeds ``limits``.
    """
    frame_shape = check_frame(image, limits)
    return np.ascontiguousarray(camera_integers(image).reshape(frame_shape), dtype=_WIRE)


def camera_integers(image: NDArray[Any]) -> NDArray[Any]:
    """Return integers unchanged, and floats of 0..1 as the integers that are sent for them.

    Raises:
        UnsupportedImage: floats are not finite or not within 0..1.
    """
    if image.dtype.kind != "f":
        return np.asarray(image)
    check_values(image)
    return _scaled(image)


def check_frame(image: NDArray[np.generic], limits: FrameLimits = ONE_REQUEST) -> FrameShape:
    """Check shape, dtype and size of a frame without touching a pixel; return ``(H, W, C)``.

    Raises:
        UnsupportedImage: not a numpy array, or the shape or dtype is not accepted.
        FrameTooLarge: the frame exceeds ``limits``.
    """
    if not isinstance(image, np.ndarray):
        raise UnsupportedImage(
            f"A frame is a numpy array; given: {type(image).__name__}. "
            "Convert it with numpy.asarray(...)."
        )
    return check_layout(image.shape, image.dtype, limits)


def check_layout(
    shape: tuple[int, ...], dtype: np.dtype[np.generic], limits: FrameLimits = ONE_REQUEST
) -> FrameShape:
    """Check a frame that has not been read yet; return ``(H, W, C)``.

    Raises:
        UnsupportedImage: the shape or dtype is not accepted.
        FrameTooLarge: the frame exceeds ``limits``.
    """
    frame_shape = _frame_shape(shape, dtype)
    if dtype.kind != "f" and dtype.newbyteorder("=") not in (np.dtype(np.uint8), _WIRE):
        raise UnsupportedImage(
            f"A frame is uint8, uint16, or float within 0..1; given: {_described(shape, dtype)}. "
            f"{_dtype_remedy(dtype)}"
        )
    limits.check(frame_shape)
    return frame_shape


def check_values(image: NDArray[np.generic]) -> None:
    """Check the values of a frame block by block; integers need no check.

    Raises:
        UnsupportedImage: floats are not finite or not within 0..1.
    """
    if image.dtype.kind != "f":
        return
    rows = max(1, _BLOCK_VALUES // max(1, image[0].size))
    blocks: list[NDArray[Any]] = [image[top : top + rows] for top in range(0, len(image), rows)]
    low, high = np.min([b.min() for b in blocks]), np.max([b.max() for b in blocks])
    if not (low >= 0 and high <= 1):  # both are NaN if any value is
        unfit = sum(int(np.count_nonzero(~np.isfinite(block))) for block in blocks)
        remedy = "scale it: (image - image.min()) / numpy.ptp(image)"
        if unfit:  # scaling would spread NaN and infinity
            remedy = "fill them in first: numpy.where(numpy.isfinite(image), image, 0)"
        raise UnsupportedImage(
            "A float frame is finite and within 0..1; given: "
            f"{_described(image.shape, image.dtype)}, from {low:g} to {high:g}, {unfit} values NaN "
            f"or infinite. Pass the camera's integers, or {remedy}."
        )


def _bytes(frame_shape: FrameShape) -> int:
    height, width, channels = frame_shape
    return height * width * channels * _WIRE.itemsize


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


def _scaled(frame: NDArray[np.generic]) -> NDArray[np.uint16]:
    """Scale floats of 0..1 to 0..65535."""
    values: NDArray[Any] = np.asarray(frame).astype(np.promote_types(frame.dtype, np.float32))
    values *= WIRE_WHITE
    np.rint(values, out=values)
    return values.astype(_WIRE)


def _described(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> str:
    return f"shape {shape}, dtype {dtype}"


def _shape_remedy(shape: tuple[int, ...]) -> str:
    if len(shape) == 3 and shape[2] == 4:
        return "Drop the alpha channel: image[..., :3]."
    if len(shape) == 3 and shape[0] == 3:
        return "Put the channels last: numpy.moveaxis(image, 0, -1)."
    if len(shape) >= 3:
        return (
            "Pass one plane or one channel at a time: image[0], or image[..., 0] where the "
            "channels are last."
        )
    return "Pass one whole plane."


def _dtype_remedy(dtype: np.dtype[np.generic]) -> str:
    if dtype.kind in "iu":
        return "If all values are within 0..65535, use image.astype(numpy.uint16)."
    if dtype.kind == "b":
        return "A mask is no camera frame; pass the frame itself."
    return "Pass the camera's own values."
