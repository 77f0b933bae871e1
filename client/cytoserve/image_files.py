"""Open an image file of any kind that is read, by its first bytes or its name.

=====================  ===================  =======================================
kind                   library              extra
=====================  ===================  =======================================
PNG, JPEG, BMP         OpenCV               -
TIFF, OME-TIFF, LSM    tifffile             ``codecs`` for rare compressions
OME-Zarr               zarr                 ``zarr``
ND2, DV, CZI, LIF      bioio and a plugin   ``nd2``, ``dv``, ``czi``, ``lif``
=====================  ===================  =======================================
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cytoserve.camera_values import camera_values, check_stored_layout
from cytoserve.errors import FrameTooLarge, InvalidSetting, UnreadableImage, UnsupportedImage
from cytoserve.frames import FrameLimits, check_frame
from cytoserve.image_headers import Header, read_header
from cytoserve.positions import OpenImage, Position, refused
from cytoserve.tiff_pages import turned
from cytoserve.tiff_positions import TIFF_STARTS, open_tiff
from cytoserve.vendor_positions import NOT_READ, PLUGINS, open_vendor_file
from cytoserve.zarr_positions import is_zarr, open_zarr

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
"""Suffixes of plain image files, in lower case."""

TIFF_SUFFIXES = (".tf2", ".tf8", ".btf", ".lsm", ".stk", ".svs", ".ndpi", ".scn", ".qptiff")
"""Suffixes of microscopes' files that are TIFFs, in lower case."""

VENDOR_SUFFIXES = (*PLUGINS, *NOT_READ)
"""Suffixes of vendors' files, in lower case; some are known only to be told."""

SEARCHED = (*SUFFIXES, *TIFF_SUFFIXES, *VENDOR_SUFFIXES)
"""Suffixes of the files that a search for planes takes, in lower case."""


def open_image(path: Path, limits: FrameLimits) -> OpenImage:
    """Open an image file and find its planes; no pixel is decoded yet.

    Raises:
        UnreadableImage: the file is missing, empty, damaged, or of no kind that is read.
        UnsupportedImage: no plane of it could be a frame.
        FrameTooLarge: its planes exceed ``limits``.

        Every message names the file.
    """
    with naming(path):
        if path.is_dir() and is_zarr(path):
            return open_zarr(path, limits)
        if not path.is_file():
            raise refused("it is no file", "Check the name.")
        if path.suffix.lower() in VENDOR_SUFFIXES:
            return open_vendor_file(path, limits)
        with path.open("rb") as file:
            start = file.read(4)
            if not start:
                raise refused("it is empty", "Copy it again.")
            header = None if start in TIFF_STARTS else read_header(file)
        if header is not None:
            return _plain(path, header, limits)
        if start not in TIFF_STARTS:
            raise refused("it is no PNG, JPEG, BMP or TIFF", "Convert it to TIFF or PNG first.")
        return open_tiff(path, limits)


def read_plane(
    image: OpenImage, position: Position, time: int, z: int, channel: int, limits: FrameLimits
) -> NDArray[Any]:
    """Return one plane as a frame: ``[H, W]`` or ``[H, W, 3]``; uint8, uint16, or float 0..1.

    Raises:
        UnreadableImage, UnsupportedImage, FrameTooLarge: the plane cannot be read as a frame; the
            message names the file.
    """
    with naming(image.path):
        check_stored_layout(position.shape, position.dtype, limits)
        frame = camera_values(position.load(time, z, channel))
        check_frame(frame, limits)
        return frame


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the file's name before the message, and convert errors of libraries into ours."""
    try:
        yield
    except (UnreadableImage, UnsupportedImage, FrameTooLarge, InvalidSetting) as error:
        raise type(error)(f"{path}: {error}") from error
    except OSError as error:
        unread = refused(error.strerror or str(error), "Check that you may read it.")
        raise UnreadableImage(f"{path}: {unread}") from error
    except Exception as error:  # tifffile may raise anything on a damaged file
        broken = refused(f"it is truncated or damaged ({error!r:.300})", "Copy it again.")
        raise UnreadableImage(f"{path}: {broken}") from error


def _plain(path: Path, header: Header, limits: FrameLimits) -> OpenImage:
    """Return the one plane of a PNG, JPEG or BMP."""
    height, width = header.upright_size
    limits.check((height, width, min(header.channels, 3)))
    position = Position(
        name="",
        times=1,
        depth=1,
        channels=("",),
        shape=(height, width),  # whether it has colours shows when it is decoded
        dtype=np.dtype(np.uint16),
        pixel_size_um=None,
        load=lambda time, z, channel: _decode(path, header),
    )
    return OpenImage(path, (position,))


def _decode(path: Path, header: Header) -> NDArray[Any]:
    if header.has_alpha:
        raise UnsupportedImage(
            f"A frame has 1 or 3 channels; given: an image of {header.channels} channels with "
            "transparency. Save it without its alpha channel."
        )
    data = np.fromfile(path, np.uint8)  # unlike imread, accepts any file name on Windows
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if image is None:
        raise refused("it is truncated or damaged", "Copy it again.")
    if image.shape[:2] != (header.height, header.width):
        raise refused(
            f"it is truncated or damaged (it holds {image.shape[:2]} in place of "
            f"{(header.height, header.width)} pixels)",
            "Copy it again.",
        )
    if image.ndim == 3 and image.shape[2] == 4:
        raise UnsupportedImage(
            f"A frame has 1 or 3 channels; given: shape {image.shape}, dtype {image.dtype}. "
            "Save it without its alpha channel."
        )
    # cv2 is BGR
    return turned(image if image.ndim == 2 else image[..., ::-1], header.orientation)
