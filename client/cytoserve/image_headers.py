"""Read a PNG, JPEG or BMP image's size from its header, to refuse image bombs undecoded."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import BinaryIO

_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # frame headers, SOF0..SOF15
_JPEG_BARE = frozenset((0x01, *range(0xD0, 0xD9)))  # markers without a length


def image_size(file: BinaryIO) -> tuple[int, int] | None:
    """Return ``(H, W)`` in pixels; None if the file is neither PNG, JPEG nor BMP.

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
