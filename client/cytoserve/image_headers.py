"""Read and check the headers of PNG, JPEG and BMP files before anything is decoded.

A small file may claim a huge picture, a huge chunk or thousands of passes. Such files are refused
here. Nothing is decoded, and nothing larger than one chunk of the file is held.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

JPEG_SCANS = 100
"""Maximum number of scans of a progressive JPEG; encoders write about ten."""

UPRIGHT = 1
"""EXIF orientation of an image that is stored as it is shown."""

_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # frame headers, SOF0..SOF15
_JPEG_BARE = frozenset((0x01, *range(0xD0, 0xD9)))  # markers without a length
_JPEG_SCAN, _JPEG_END, _JPEG_EXIF = 0xDA, 0xD9, 0xE1
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # by colour type; palettes become RGB
_PNG_BITS = (1, 2, 4, 8, 16)
_BLOCK_BYTES = 1 << 20
_EXIF_BYTES = 1 << 16
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Header:
    """What the header of an image file says.

    Attributes:
        height, width: size as stored in pixels.
        channels: number of channels as stored; palettes count as their colours.
        orientation: EXIF orientation, 1 to 8; 1 is upright.
        has_alpha: whether a channel is transparency.
    """

    height: int
    width: int
    channels: int
    orientation: int = UPRIGHT
    has_alpha: bool = False

    @property
    def upright_size(self) -> tuple[int, int]:
        """``(H, W)`` as shown: orientations 5 to 8 exchange height and width."""
        stored = self.height, self.width
        return stored if self.orientation < 5 else (stored[1], stored[0])


def read_header(file: BinaryIO) -> Header | None:
    """Return the header; None if the file is neither PNG, JPEG nor BMP.

    Raises:
        ValueError: the header is cut off, contradicts itself, or a checksum is wrong.
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


def _png(file: BinaryIO) -> Header:
    size: tuple[int, int] | None = None
    channels, orientation, has_alpha = 1, UPRIGHT, False
    for kind, content in _png_chunks(file):
        if size is None:
            width, height, bits, colour = struct.unpack_from(">IIBB", content)
            if colour not in _PNG_CHANNELS or bits not in _PNG_BITS:
                raise ValueError(f"its PNG header claims {bits} bits of colour type {colour}")
            size, channels, has_alpha = (height, width), _PNG_CHANNELS[colour], colour in (4, 6)
        elif kind == b"IHDR":
            raise ValueError("it has two PNG headers")
        elif kind == b"tRNS":
            has_alpha = True
        elif kind == b"eXIf":
            orientation = _exif_orientation(content)
    if size is None:
        raise ValueError("its header is cut off")
    return Header(*size, channels, orientation, has_alpha)


def _png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and first bytes of every chunk; check lengths and the checksums of the pixels."""
    end = file.seek(0, 2)
    file.seek(8)
    kind, is_first = b"", True
    while kind != b"IEND":
        length, kind = struct.unpack(">I4s", file.read(8))
        if is_first and kind != b"IHDR":
            raise ValueError("its first chunk is no PNG header")
        is_first = False
        left = length
        if left + 4 > end - file.tell():
            raise ValueError(f"its PNG chunk {kind!r} is cut off")
        content = file.read(min(left, _EXIF_BYTES))
        total = zlib.crc32(content, zlib.crc32(kind))
        left -= len(content)
        while left:
            block = file.read(min(left, _BLOCK_BYTES))
            total = zlib.crc32(block, total)
            left -= len(block)
        (told,) = struct.unpack(">I", file.read(4))
        if told != total:
            raise ValueError(f"its PNG chunk {kind!r} has a wrong checksum")
        yield kind, content


def _bmp(file: BinaryIO) -> Header:
    end = file.seek(0, 2)
    file.seek(10)
    offset, header = struct.unpack("<II", file.read(8))
    layout = "<HHHH" if header == 12 else "<iiHH"  # OS/2 files have the short header
    width, height, _, bits = struct.unpack(layout, file.read(struct.calcsize(layout)))
    method = 0 if header == 12 else struct.unpack("<I", file.read(4))[0]
    height = abs(height)  # a negative height means top row first
    if width <= 0 or height == 0 or bits not in (1, 4, 8, 16, 24, 32):
        raise ValueError(f"its BMP header claims {width} x {height} pixels of {bits} bits")
    row_bytes = (width * bits + 31) // 32 * 4
    channels = 4 if bits == 32 else 3
    if method in (0, 3) and offset + row_bytes * height > end and row_bytes * height < 1 << 31:
        raise ValueError("its BMP pixels are cut off")
    return Header(height, width, channels)


def _jpeg(file: BinaryIO) -> Header:
    header: Header | None = None
    orientation, scans = UPRIGHT, 0
    for marker, content in _jpeg_segments(file):
        if marker in _JPEG_SIZES and header is None:
            bits, height, width, channels = struct.unpack_from(">BHHB", content)
            if bits != 8:
                raise ValueError(f"a JPEG of {bits} bits a value")
            header = Header(height, width, channels)
        elif marker in _JPEG_SIZES:
            raise ValueError("it has two JPEG headers")
        elif marker == _JPEG_EXIF and content.startswith(b"Exif\0\0"):
            orientation = _exif_orientation(content[6:])
        elif marker == _JPEG_SCAN:
            scans += 1
            if scans > JPEG_SCANS:
                raise ValueError(f"a JPEG of more than {JPEG_SCANS} scans")
    if header is None:
        raise ValueError("its JPEG header is missing")
    return Header(header.height, header.width, header.channels, orientation)


def _jpeg_segments(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield marker and content of every segment, up to the end of the picture."""
    file.seek(2)
    marker = 0
    while True:
        filler, marker = struct.unpack("BB", file.read(2))
        if filler != 0xFF:
            raise ValueError("its JPEG markers are broken")
        if marker == 0xFF:  # fill bytes may precede a marker
            file.seek(-1, 1)
            continue
        if marker == _JPEG_END:
            return
        if marker in _JPEG_BARE:
            continue
        (length,) = struct.unpack(">H", file.read(2))
        content = file.read(max(0, length - 2))
        if length < 2 or len(content) != length - 2:
            raise ValueError("its header is cut off")
        yield marker, content
        if marker == _JPEG_SCAN and not _pass_scan(file):
            raise ValueError("its JPEG data are cut off")


def _pass_scan(file: BinaryIO) -> bool:
    """Move to the marker after the coded pixels; False if the file ends before."""
    while block := file.read(_BLOCK_BYTES):
        at = block.find(b"\xff")
        while at >= 0:
            if at + 1 == len(block):
                file.seek(-1, 1)
                if len(block) == 1:
                    return False
                break
            follower = block[at + 1]
            if follower == 0xFF:
                at += 1
                continue
            if follower and not 0xD0 <= follower <= 0xD7:  # no stuffed byte, no restart
                file.seek(at - len(block), 1)
                return True
            at = block.find(b"\xff", at + 2)
    return False


def _exif_orientation(content: bytes) -> int:
    """Return the orientation that an EXIF block tells; what is no orientation counts as upright."""
    order = {b"II": "<", b"MM": ">"}.get(content[:2])
    if order is None:
        return UPRIGHT
    try:
        (first,) = struct.unpack_from(order + "I", content, 4)
        (entries,) = struct.unpack_from(order + "H", content, first)
        for number in range(entries):
            tag, _, _, value = struct.unpack_from(order + "HHIH", content, first + 2 + 12 * number)
            if tag == _ORIENTATION:
                return int(value) if 1 <= value <= 8 else UPRIGHT
    except struct.error:
        return UPRIGHT
    return UPRIGHT


_READERS: Mapping[bytes, Callable[[BinaryIO], Header]] = {
    b"\x89PNG\r\n\x1a\n": _png,
    b"\xff\xd8\xff": _jpeg,
    b"BM": _bmp,
}
