"""Decode JPEG strips and tiles of a TIFF by OpenCV."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cytoserve.image_headers import read_header
from cytoserve.tiff_codecs import Damaged

_START, _END = b"\xff\xd8", b"\xff\xd9"
_SCAN = b"\xff\xda"


def decode_jpeg(
    data: bytes,
    tables: bytes | None,
    is_rgb: bool,
    size: tuple[int, int, int],
    samples: int,
) -> NDArray[Any]:
    """Return uint8 ``[rows, columns, samples]``, RGB.

    Args:
        data: the JPEG of one strip or tile.
        tables: the tables that all strips share, as a JPEG without a picture.
        is_rgb: whether the file stores red, green and blue; otherwise YCbCr is converted.
        size: least and largest number of rows, and number of columns.
        samples: 1 or 3.

    Raises:
        Damaged: this is no JPEG of such a size.
    """
    if data[:2] != _START:
        raise Damaged("JPEG data do not begin with their marker")
    shared = b"" if tables is None else tables[2:].removesuffix(_END)
    whole = _START + _colour_marker(shared + data[2:], is_rgb, samples) + shared + data[2:]
    try:
        header = read_header(io.BytesIO(whole))
    except ValueError as error:
        raise Damaged(f"JPEG data: {error}") from error
    least, most, columns = size
    if header is None or not (
        least <= header.height <= most and header.width == columns and header.channels == samples
    ):
        raise Damaged(f"JPEG data hold {header}")
    image = cv2.imdecode(np.frombuffer(whole, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise Damaged("JPEG data cannot be decoded")
    image = image if image.ndim == 3 else image[..., np.newaxis]
    return image[..., ::-1]  # cv2 is BGR


def _colour_marker(data: bytes, is_rgb: bool, samples: int) -> bytes:
    """Return the segment that tells the decoder the colours, if the data have none.

    A TIFF tells in a tag of its own whether the colours are RGB. A decoder of JPEG would guess.
    """
    head = data[: data.find(_SCAN)]
    if samples != 3 or b"JFIF\0" in head or b"Adobe" in head:
        return b""
    return b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + (b"\x00" if is_rgb else b"\x01")
