"""Read the one frame of an image file, with the camera's bit depth and values.

Files with several planes are read by :mod:`cytoserve.planes`. The size is read from the header and
checked before anything is decoded, so that image bombs are refused undecoded. The file's first
bytes determine the format, not its name.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO

import tifffile
from numpy.typing import NDArray

from cytoserve.camera_values import check_stored_layout
from cytoserve.frames import ONE_REQUEST, FrameLimits, camera_integers
from cytoserve.image_files import SUFFIXES as SUFFIXES
from cytoserve.image_files import naming, open_image, read_plane
from cytoserve.image_headers import read_header
from cytoserve.pixel_sizes import plausible
from cytoserve.positions import refused
from cytoserve.tiff_positions import TIFF_STARTS, tiff_pixel_size


def read_frame(path: str | os.PathLike[str], limits: FrameLimits = ONE_REQUEST) -> NDArray[Any]:
    """Return the one frame that a file holds: ``[H, W]`` grey or ``[H, W, 3]`` RGB.

    Palettes are converted to RGB, inverted grey TIFFs (white is zero) are inverted back, and images
    are turned upright by their EXIF or TIFF orientation. Pyramids are read in full resolution.
    Signed, 32-bit and float counts become uint16 if all of them fit.

    Raises:
        UnreadableImage: the file is missing, empty, truncated, a stack, or no image.
        UnsupportedImage: the shape, dtype or range is not accepted, such as four channels.
        FrameTooLarge: the frame exceeds ``limits``, by default those of one request.

        Every message names the file.
    """
    path = Path(path)
    with open_image(path, limits) as image:
        if image.planes != 1:
            with naming(path):
                position = image.positions[0]
                check_stored_layout(position.shape, position.dtype, limits)
                raise refused(
                    f"a file of {image.planes} planes",
                    "Read it with cytoserve.read_planes or `cytoserve segment`, or save the plane "
                    "as a file of its own.",
                )
        return read_plane(image, image.positions[0], 0, 0, 0, limits)


def read_integers(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Return a file's frame like :func:`read_frame`, with floats converted as for the server.

    Use it to train or compute on frames without a server. The frame is uint8 or uint16 ``[H, W]``
    or ``[H, W, 3]``.

    Raises:
        UnsupportedImage: floats are not finite, or do not fit; the message names the file.
        UnreadableImage, UnsupportedImage, FrameTooLarge: see :func:`read_frame`.
    """
    frame = read_frame(path)
    with naming(Path(path)):
        return camera_integers(frame)


def read_pixel_size(path: str | os.PathLike[str]) -> float | None:
    """Return the side of a file's pixels in micrometres, or None if the file does not state it.

    OME-TIFF and ImageJ TIFF state it. A resolution in inches or without a unit is a printer's, not
    a microscope's. Pixels are assumed to be square: the size along x counts. An unreadable file
    raises no error here: :func:`read_frame` raises it.
    """
    try:
        with Path(path).open("rb") as file:
            if file.read(4) not in TIFF_STARTS:
                return None
        with tifffile.TiffFile(path) as tiff:
            return plausible(tiff_pixel_size(tiff))
    except Exception:  # tifffile may raise anything on a damaged file
        return None


def image_size(file: BinaryIO) -> tuple[int, int] | None:
    """Return ``(H, W)`` in pixels, upright; None if the file is neither PNG, JPEG nor BMP.

    Raises:
        ValueError: the header is truncated or invalid.
    """
    header = read_header(file)
    return None if header is None else header.upright_size
