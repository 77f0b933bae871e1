"""Decompress the strips and tiles of a TIFF, within bounds and with every check that a codec has.

A decoder's silence proves nothing: a strip is right only if its data end where its pixels end.
Python's own libraries decode Deflate and LZMA; LZW and PackBits are decoded here. The optional
package imagecodecs decodes LZW faster, and all that is not here.
"""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Callable, Mapping
from typing import Any

LZW = 5
JPEG = 7

_CLEAR, _END, _FIRST = 256, 257, 258
_LZW_ENTRIES = 4096 - _FIRST
_NAMES = {
    2: "CCITT RLE",
    3: "CCITT fax 3",
    4: "CCITT fax 4",
    5: "LZW",
    6: "old-style JPEG",
    7: "JPEG",
    8: "Deflate",
    9: "JBIG",
    22610: "JPEG XR",
    32766: "NeXT RLE",
    32773: "PackBits",
    32809: "ThunderScan",
    32946: "Deflate",
    33003: "Aperio JPEG 2000",
    33005: "Aperio JPEG 2000",
    33004: "JPEG 2000",
    34661: "JBIG",
    34676: "SGI Log",
    34677: "SGI Log",
    34712: "JPEG 2000",
    34887: "LERC",
    34892: "lossy JPEG",
    34925: "LZMA",
    34926: "Zstandard",
    34927: "WebP",
    34933: "PNG",
    34934: "JPEG XR",
    50000: "Zstandard",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}

NEEDS_CODECS = frozenset(_NAMES) - {1, 5, 6, 7, 8, 32773, 32946, 34925}
"""TIFF compressions that the extra ``codecs`` may decode."""


class Damaged(ValueError):
    """The data of a strip or tile are cut off or damaged."""


def codec_name(compression: int) -> str:
    """Return the name of a TIFF compression, such as ``JPEG 2000``."""
    return _NAMES.get(compression, f"compression number {compression}")


def has_codecs() -> bool:
    """Whether the optional package imagecodecs can be imported."""
    try:
        import imagecodecs  # noqa: F401
    except ImportError:
        return False
    return True


def decompress(data: bytes, compression: int, least: int, most: int) -> bytes:
    """Return the bytes of one strip or tile.

    Args:
        data: the compressed bytes.
        compression: number of the TIFF compression, one of :data:`DECODERS`.
        least: number of bytes that the pixels need.
        most: number of bytes that the file may hold for them, as some programs fill the last strip.

    Raises:
        Damaged: the data end too early, do not end in time, or fail a check of the codec.
    """
    try:
        found = DECODERS[compression](data, most)
    except Damaged:
        raise
    except Exception as error:  # each library has errors of its own
        raise Damaged(f"{codec_name(compression)} data: {error}") from error
    if not least <= len(found) <= most:
        raise Damaged(f"{codec_name(compression)} data hold {len(found)} bytes in place of {least}")
    return found


def _deflate(data: bytes, most: int) -> bytes:
    decoder = zlib.decompressobj()
    found = decoder.decompress(data, most + 1)  # the byte too many lets it reach the checksum
    if not decoder.eof:
        raise Damaged("Deflate data do not end where the pixels end")
    return found


def _lzma(data: bytes, most: int) -> bytes:
    decoder = lzma.LZMADecompressor()
    found = decoder.decompress(data, most + 1)
    if not decoder.eof:
        raise Damaged("LZMA data do not end where the pixels end")
    return found


def _packbits(data: bytes, most: int) -> bytes:
    found = bytearray()
    at, end = 0, len(data)
    while at < end and len(found) < most:
        count = data[at]
        at += 1
        if count < 128:
            if at + count + 1 > end:
                raise Damaged("PackBits data are cut off")
            found += data[at : at + count + 1]
            at += count + 1
        elif count > 128:
            if at >= end:
                raise Damaged("PackBits data are cut off")
            found += data[at : at + 1] * (257 - count)
            at += 1
    return bytes(found)


def _lzw(data: bytes, most: int) -> bytes:
    try:
        import imagecodecs
    except ImportError:
        return lzw_decode(data, most)
    return bytes(imagecodecs.lzw_decode(data, out=most + 1))


def lzw_decode(data: bytes, most: int) -> bytes:
    """Decode TIFF's LZW to at most ``most`` bytes.

    The string of a code is always in the output already: it began where an earlier code began. So
    the table holds places in the output, and no strings.

    Raises:
        Damaged: a code is not in the table, the table overflows, or the data hold too much.
    """
    if data[:1] == b"\0" and len(data) > 1 and data[1] & 1:
        raise Damaged("LZW data have the old order of bits")
    found = bytearray()
    starts: list[int] = []  # of the string of code 258 + i in the output
    lengths: list[int] = []
    bits = buffered = 0
    width, limit = 9, 511
    last_start = last_length = -1
    for byte in data:
        buffered = (buffered << 8) | byte
        bits += 8
        if bits < width:
            continue
        bits -= width
        code = buffered >> bits
        buffered &= (1 << bits) - 1
        if code < _CLEAR:
            start, length = len(found), 1
            found.append(code)
        elif code >= _FIRST:
            entry = code - _FIRST
            start = len(found)
            if entry < len(starts):
                source, length = starts[entry], lengths[entry]
                found += found[source : source + length]
            elif entry == len(starts) and last_length > 0:  # the string that is being made
                length = last_length + 1
                found += found[last_start : last_start + last_length]
                found.append(found[last_start])
            else:
                raise Damaged("LZW data have a code that was never made")
        elif code == _CLEAR:
            starts.clear()
            lengths.clear()
            width, limit, last_length = 9, 511, -1
            continue
        else:
            return bytes(found)
        if last_length > 0:
            if len(starts) >= _LZW_ENTRIES:
                raise Damaged("LZW data have more codes than the table holds")
            starts.append(last_start)
            lengths.append(last_length + 1)
            if len(starts) + _FIRST >= limit and width < 12:
                width += 1
                limit = (1 << width) - 1
        last_start, last_length = start, length
        if len(found) > most:
            raise Damaged("LZW data hold more than the pixels")
    return bytes(found)


DECODERS: Mapping[int, Callable[[bytes, int], bytes]] = {
    1: lambda data, most: data[:most],
    LZW: _lzw,
    8: _deflate,
    32946: _deflate,
    32773: _packbits,
    34925: _lzma,
}
"""Decoder of each TIFF compression whose data are the pixels' bytes."""

REVERSED: Any = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
"""Table for ``bytes.translate`` that turns the order of the bits in every byte."""
