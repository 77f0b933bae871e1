"""Read a frame from a PNG, JPEG, BMP or TIFF file, with the camera's bit depth and values.

The size is read from the header and checked before anything is decoded, so that image bombs are
refused undecoded. The file's first bytes determine the format, not its name.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

from cytoserve.errors import FrameTooLarge, UnreadableImage, UnsupportedImage
from cytoserve.frames import (
    ONE_REQUEST,
    FrameLimits,
    camera_integers,
    check_frame,
    check_layout,
)
from cytoserve.settings import MAX_SCALE, MIN_SCALE

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
"""Suffixes of image files, in lower case; other files are ignored when a folder is searched."""

_MICROMETRES = {
    "m": 1e6,
    "cm": 1e4,
    "mm": 1e3,
    "micron": 1.0,
    "microns": 1.0,
    "um": 1.0,
    "µm": 1.0,
    "nm": 1e-3,
}

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # frame headers, SOF0..SOF15
_JPEG_BARE = frozenset((0x01, *range(0xD0, 0xD9)))  # markers without a length


def read_frame(path: str | os.PathLike[str], limits: FrameLimits = ONE_REQUEST) -> NDArray[Any]:
    """Return the one frame that a file holds: ``[H, W]`` grey or ``[H, W, 3]`` RGB.

    Palettes are converted to RGB, and inverted grey TIFFs (white is zero) are inverted back. EXIF
    orientation is not applied.

    Raises:
        UnreadableImage: the file is missing, empty, truncated, a stack, or no image.
        UnsupportedImage: the shape or dtype is not accepted, such as four channels.
        FrameTooLarge: the frame exceeds ``limits``, by default those of one request.

        Every message names the file.
    """
    path = Path(path)
    with _naming(path):
        if not path.is_file():
            raise _unreadable("it is no file", "Check the name.")
        with path.open("rb") as file:
            start = file.read(4)
            if not start:
                raise _unreadable("it is empty", "Copy it again.")
            if start in _TIFF_MAGIC:
                return _read_tiff(path, limits)
            size = image_size(file)
        if size is None:
            raise _unreadable("it is no PNG, JPEG, BMP or TIFF", "Convert it to TIFF or PNG first.")
        limits.check((*size, 1))
        return _decode(path, limits)


def read_integers(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Return a file's frame like :func:`read_frame`, with floats converted as for the server.

    Use it to train or compute on frames without a server. The frame is uint8 or uint16 ``[H, W]``
    or ``[H, W, 3]``.

    Raises:
        UnsupportedImage: floats are not finite or not within 0..1; the message names the file.
        UnreadableImage, UnsupportedImage, FrameTooLarge: see :func:`read_frame`.
    """
    frame = read_frame(path)
    with _naming(Path(path)):
        return camera_integers(frame)


def read_pixel_size(path: str | os.PathLike[str]) -> float | None:
    """Return the side of a file's pixels in micrometres, or None if the file does not state it.

    OME-TIFF and ImageJ TIFF state it. A resolution in inches or without a unit is a printer's, not
    a microscope's. Pixels are assumed to be square: the size along x counts. An unreadable file
    raises no error here: :func:`read_frame` raises it.
    """
    try:
        with Path(path).open("rb") as file:
            if file.read(4) not in _TIFF_MAGIC:
                return None
        with tifffile.TiffFile(path) as tiff:
            size = _ome_pixel_size(tiff) if tiff.is_ome else _imagej_pixel_size(tiff)
    except Exception:  # tifffile may raise anything on a damaged file
        return None
    return size if size is not None and MIN_SCALE <= size <= MAX_SCALE else None


def image_size(file: BinaryIO) -> tuple[int, int] | None:
    """Return ``(H, W)`` in pixels from a header; None if the file is neither PNG, JPEG nor BMP.

    Raises:
        ValueError: the header is truncated or invalid.
    """
    file.seek(0)
    start = file.read(8)
    for magic, read in _READERS.items():
        if start.startswith(magic):
            try:
                return read(file)
            except struct.error as error:
                raise ValueError("its header is cut off") from error
    return None


def _ome_pixel_size(tiff: tifffile.TiffFile) -> float | None:
    image = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]
    pixels = (image[0] if isinstance(image, list) else image)["Pixels"]
    factor = _micrometres(pixels.get("PhysicalSizeXUnit", "µm"))
    return None if factor is None else float(pixels["PhysicalSizeX"]) * factor


def _imagej_pixel_size(tiff: tifffile.TiffFile) -> float | None:
    if not tiff.is_imagej:
        return None
    factor = _micrometres((tiff.imagej_metadata or {}).get("unit", ""))
    pixels, units = tiff.pages[0].tags.valueof("XResolution")
    return None if factor is None else units / pixels * factor


def _micrometres(unit: str) -> float | None:
    """Return the micrometres in a unit, as OME-XML and ImageJ write it; None for other units."""
    # ImageJ writes the micro sign as an escape, and some programs write a Greek mu.
    return _MICROMETRES.get(unit.replace("\\u00B5", "µ").replace("\u03bc", "µ"))


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the file's name before the message, and convert errors of libraries into ours."""
    try:
        yield
    except (UnreadableImage, UnsupportedImage, FrameTooLarge) as error:
        raise type(error)(f"{path}: {error}") from error
    except OSError as error:
        refused = _unreadable(error.strerror or str(error), "Check that you may read it.")
        raise UnreadableImage(f"{path}: {refused}") from error
    except Exception as error:  # tifffile may raise anything on a damaged file
        broken = _unreadable(f"it is truncated or damaged ({error!r})", "Copy it again.")
        raise UnreadableImage(f"{path}: {broken}") from error


def _unreadable(given: str, remedy: str) -> UnreadableImage:
    return UnreadableImage(f"A file must hold one whole frame; given: {given}. {remedy}")


def _decode(path: Path, limits: FrameLimits) -> NDArray[Any]:
    data = np.fromfile(path, np.uint8)  # unlike imread, accepts any file name on Windows
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if image is None:
        raise _unreadable("it is truncated or damaged", "Copy it again.")
    if image.ndim == 3 and image.shape[2] == 4:
        raise UnsupportedImage(
            f"A frame has 1 or 3 channels; given: shape {image.shape}, dtype {image.dtype}. "
            "Save it without its alpha channel."
        )
    check_frame(image, limits)
    return image if image.ndim == 2 else np.ascontiguousarray(image[..., ::-1])  # cv2 is BGR


def _read_tiff(path: Path, limits: FrameLimits) -> NDArray[Any]:
    with tifffile.TiffFile(path) as tiff:
        page = _only_page(tiff)
        check_layout(_channels_last(page.shape, page.axes), page.dtype, limits)
        size = path.stat().st_size
        spans = zip(page.dataoffsets, page.databytecounts, strict=True)
        if any(offset + count > size for offset, count in spans):
            raise _unreadable("its TIFF data are cut off", "Copy it again.")
        try:
            return _camera_values(page.asarray(), page)
        except (ValueError, NotImplementedError) as error:
            if "imagecodecs" not in str(error):
                raise
            return _decode_by_opencv(path, page, limits)


def _camera_values(image: NDArray[Any], page: tifffile.TiffPage) -> NDArray[Any]:
    """Move channels last, apply palettes, and invert inverted grey."""
    if page.axes == "SYX":
        image = np.moveaxis(image, 0, -1)
    if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
        image = np.moveaxis(page.colormap[:, image], 0, -1)
    elif page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and image.dtype.kind == "u":
        image = np.iinfo(image.dtype).max - image
    return image


def _only_page(tiff: tifffile.TiffFile) -> tifffile.TiffPage:
    planes = len(tiff.pages)
    if tiff.is_imagej:  # may store a whole stack behind one page
        planes = max(planes, int((tiff.imagej_metadata or {}).get("images", 1)))
    if planes != 1:
        raise _unreadable(
            f"a TIFF of {planes} planes", "Save each plane as a file of its own, or project them."
        )
    page = tiff.pages[0]
    if page.axes not in ("YX", "YXS", "SYX"):
        raise _unreadable(f"a TIFF page with axes {page.axes}", "Save one plane, Y by X.")
    return page


def _channels_last(shape: tuple[int, ...], axes: str) -> tuple[int, ...]:
    return (*shape[1:], shape[0]) if axes == "SYX" else shape


def _decode_by_opencv(path: Path, page: tifffile.TiffPage, limits: FrameLimits) -> NDArray[Any]:
    """Decode formats that tifffile leaves to an optional library, such as LZW.

    OpenCV scales values of 10, 12 and 14 bits, and always applies a TIFF's orientation, whatever
    its flags. Such files are refused.
    """
    if page.bitspersample != 8 * page.dtype.itemsize:
        raise _unreadable(f"a TIFF of {page.bitspersample} bits a value", "Save it with 16 bits.")
    orientation = page.tags.valueof("Orientation", 1)
    if orientation in range(2, 9):
        raise _unreadable(
            f"a TIFF with {page.compression.name} data and orientation {int(orientation)}",
            "Save it without compression.",
        )
    plain = (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB)
    if page.photometric not in plain or page.axes == "SYX":
        raise _unreadable(
            f"a TIFF with {page.compression.name} data and {page.photometric.name} colours",
            "Save it without compression.",
        )
    return _decode(path, limits)


def _png_size(file: BinaryIO) -> tuple[int, int]:
    _, kind, width, height = struct.unpack(">I4sII", file.read(16))
    if kind != b"IHDR":
        raise ValueError("its first chunk is no PNG header")
    return height, width


def _bmp_size(file: BinaryIO) -> tuple[int, int]:
    file.seek(14)
    (header,) = struct.unpack("<I", file.read(4))
    layout = "<HH" if header == 12 else "<ii"  # OS/2 files have the short header
    width, height = struct.unpack(layout, file.read(struct.calcsize(layout)))
    return abs(height), width  # a negative height means top row first


def _jpeg_size(file: BinaryIO) -> tuple[int, int]:
    file.seek(2)
    while True:
        filler, marker = struct.unpack("BB", file.read(2))
        if filler != 0xFF:
            raise ValueError("its JPEG markers are broken")
        if marker == 0xFF:  # fill bytes may precede a marker
            file.seek(-1, 1)
        elif marker not in _JPEG_BARE:
            (length,) = struct.unpack(">H", file.read(2))
            if marker in _JPEG_SIZES:
                _, height, width = struct.unpack(">BHH", file.read(5))
                return height, width
            file.seek(length - 2, 1)


_READERS: Mapping[bytes, Callable[[BinaryIO], tuple[int, int]]] = {
    b"\x89PNG\r\n\x1a\n": _png_size,
    b"\xff\xd8\xff": _jpeg_size,
    b"BM": _bmp_size,
}
