"""Decode one page of a TIFF, strip by strip, to the camera's values.

tifffile reads the structure. The pixels are put together here, because every strip has to be
checked: each needs as many bytes as its pixels, and a page has as many strips as it needs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from cytoserve.errors import UnreadableImage
from cytoserve.frames import FrameLimits, check_layout
from cytoserve.positions import refused
from cytoserve.tiff_codecs import (
    DECODERS,
    JPEG,
    NEEDS_CODECS,
    REVERSED,
    Damaged,
    codec_name,
    decompress,
    has_codecs,
)
from cytoserve.tiff_jpeg import decode_jpeg

MAX_SEGMENTS = 1 << 17
"""Maximum number of strips or tiles of a page: enough for one per row in three colours."""

_PHOTOMETRIC = tifffile.PHOTOMETRIC
_COLOURS = (_PHOTOMETRIC.RGB, _PHOTOMETRIC.YCBCR)
_GREY = (_PHOTOMETRIC.MINISBLACK, _PHOTOMETRIC.MINISWHITE)
_KINDS = {1: "u", 2: "i", 3: "f", 4: "u"}  # by SampleFormat; 4 is undefined, taken as written
_ALPHA = (1, 2)  # ExtraSamples
_ZSTANDARD = (34926, 50000)


@dataclass(frozen=True)
class _Segment:
    """A strip or tile: its place in the page, and that of its bytes in the file.

    ``rows`` and ``columns`` are stored; those beyond the page's border hold no pixels.
    """

    sample: int
    top: int
    left: int
    rows: int
    columns: int
    index: int
    least_rows: int


def plane_layout(page: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and dtype of what :func:`read_page` returns, from the header alone.

    Raises:
        UnreadableImage: the page is of a kind that is not read; the message names it.
    """
    _check_kind(page)
    height, width, samples = page.imagelength, page.imagewidth, page.samplesperpixel
    if int(page.tags.valueof("Orientation", 1)) in range(5, 9):
        height, width = width, height
    if page.photometric == _PHOTOMETRIC.PALETTE:
        return (height, width, 3), np.dtype(np.uint16)
    shape = (height, width) if samples == 1 else (height, width, samples)
    if page.bitspersample < 8:
        return shape, np.dtype(np.uint8)
    return shape, _stored_dtype(page).newbyteorder("=")


def is_multichannel(page: Any) -> bool:
    """Tell whether the samples of a page are channels of their own, and no colours."""
    samples = page.samplesperpixel
    extra = tuple(int(kind) for kind in page.extrasamples)
    if samples == 1 or page.photometric not in _GREY:
        return False
    return not any(kind in _ALPHA for kind in extra)


def read_page(page: Any, limits: FrameLimits, first: int | None = None) -> NDArray[Any]:
    """Return the pixels of a page, upright: ``[H, W]``, or ``[H, W, S]`` of S samples.

    ``first`` is the place in the file of a plane that has no page of its own: ImageJ writes the
    uncompressed planes of a large stack one after the other behind a single page.

    Palettes become RGB, white-is-zero is inverted, 1 to 7 bits are scaled to 8, and 9 to 15 bits
    are the camera's counts as uint16. Signed, 32-bit and float data stay as stored.

    Raises:
        UnreadableImage: the page is damaged, or of a kind that is not read.
        FrameTooLarge: the page exceeds ``limits``.
    """
    shape, _ = plane_layout(page)
    channels = 1 if is_multichannel(page) or len(shape) == 2 else shape[2]
    check_layout((*shape[:2], *((channels,) if channels > 1 else ())), np.dtype(np.uint8), limits)
    pixels = _stored_pixels(page, first)
    if page.photometric == _PHOTOMETRIC.PALETTE:
        pixels = np.moveaxis(page.colormap[:, pixels[..., 0]], 0, -1)
    elif page.bitspersample < 8:
        pixels = (pixels * (255 // ((1 << page.bitspersample) - 1))).astype(np.uint8)
    if page.photometric == _PHOTOMETRIC.MINISWHITE and pixels.dtype.kind == "u":
        white = (1 << max(page.bitspersample, 8)) - 1
        pixels = (white - pixels).astype(pixels.dtype)
    if pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    return turned(pixels, int(page.tags.valueof("Orientation", 1)))


def turned(image: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Return an image ``[H, W, ...]`` upright, by its EXIF or TIFF orientation."""
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def damaged(given: str) -> UnreadableImage:
    """Return the error for a damaged file."""
    return refused(f"it is truncated or damaged ({given})", "Copy it again.")


def _check_kind(page: Any) -> None:
    codec = int(page.compression)
    bits, kind = page.bitspersample, _KINDS.get(int(page.sampleformat or 1))
    if page.imagedepth != 1:
        raise refused(f"a TIFF page with axes {page.axes}", "Save one plane, Y by X.")
    colours = page.photometric
    if colours not in (*_GREY, *_COLOURS, _PHOTOMETRIC.PALETTE) or (
        colours == _PHOTOMETRIC.YCBCR and codec != JPEG
    ):
        name = getattr(colours, "name", colours)
        raise refused(f"a TIFF with {name} colours", "Save it as RGB or grey.")
    if colours == _PHOTOMETRIC.PALETTE and (page.samplesperpixel != 1 or page.colormap is None):
        raise refused("a TIFF with a broken palette", "Save it as RGB or grey.")
    whole = {"u": (8, 16, 32, 64), "i": (8, 16, 32, 64), "f": (16, 32, 64)}
    packed = kind == "u" and bits < 16 and codec in DECODERS and page.predictor == 1
    if kind is None or (bits not in whole[kind] and not packed):
        what = {"f": "floats of ", "i": "signed ", None: "complex values of "}.get(kind, "")
        raise refused(f"a TIFF of {what}{bits} bits a value", "Save it with 16 bits.")
    if codec not in DECODERS and codec != JPEG:
        if codec not in NEEDS_CODECS:
            raise refused(
                f"a TIFF with {codec_name(codec)} data",
                "Save it without compression, such as with ImageJ.",
            )
        if page.predictor != 1 and codec not in _ZSTANDARD:
            raise refused(
                f"a TIFF with {codec_name(codec)} data and a predictor",
                "Save it without compression.",
            )
        if not has_codecs():
            raise refused(
                f"a TIFF with {codec_name(codec)} data",
                'Install its decoder with pip install "cytoserve[codecs]", or save it without '
                "compression.",
            )


def _stored_dtype(page: Any) -> np.dtype[Any]:
    kind = _KINDS[int(page.sampleformat or 1)]
    size = 1 if page.bitspersample <= 8 else 2 if page.bitspersample <= 16 else 0
    return np.dtype(f"{kind}{size or page.bitspersample // 8}")


def _stored_pixels(page: Any, first: int | None) -> NDArray[Any]:
    """Return ``[H, W, S]`` as stored, in the byte order of this machine."""
    if first is not None:
        return _plane_behind(page, first)
    is_planar = page.samplesperpixel > 1 and int(page.planarconfig) == 2
    samples = 1 if is_planar else page.samplesperpixel
    found = np.empty((page.imagelength, page.imagewidth, page.samplesperpixel), _stored_dtype(page))
    offsets, counts = page.dataoffsets, page.databytecounts
    if not is_planar and _is_one_block(page, offsets, counts):
        return _plane_behind(page, int(offsets[0]))
    segments = list(_segments(page, is_planar))
    if len(offsets) < len(segments) or len(counts) < len(segments):
        raise damaged(f"{len(segments)} strips or tiles are needed, {len(offsets)} are told")
    shape = page.imagelength, page.imagewidth, page.samplesperpixel
    found = np.empty(shape, _stored_dtype(page))
    file = page.parent.filehandle
    for segment in segments:
        offset, count = int(offsets[segment.index]), int(counts[segment.index])
        if count <= 0:
            raise damaged("a strip or tile is empty")
        if offset + count > file.size:
            raise refused("its TIFF data are cut off", "Copy it again.")
        file.seek(offset)
        data = file.read(count)
        try:
            pixels = _segment_pixels(page, data, segment, samples)
        except Damaged as error:
            raise damaged(str(error)) from error
        rows = min(segment.rows, page.imagelength - segment.top, len(pixels))
        columns = min(segment.columns, page.imagewidth - segment.left)
        place = found[segment.top : segment.top + rows, segment.left : segment.left + columns]
        if is_planar:
            place[..., segment.sample] = pixels[:rows, :columns, 0]
        else:
            place[...] = pixels[:rows, :columns]
    return found


def _is_one_block(page: Any, offsets: Any, counts: Any) -> bool:
    """Tell whether the uncompressed strips of a page follow one another, as most programs write."""
    is_plain = int(page.compression) == 1 and page.predictor == 1 and int(page.fillorder) == 1
    if not is_plain or page.is_tiled or page.bitspersample % 8 or len(offsets) != len(counts):
        return False
    row_bytes = page.imagewidth * page.samplesperpixel * page.bitspersample // 8
    rows = min(page.rowsperstrip or page.imagelength, page.imagelength)
    if not rows > 0 or len(offsets) != -(-page.imagelength // rows):
        return False
    expected = offsets[0] + np.arange(len(offsets), dtype=np.int64) * rows * row_bytes
    total = page.imagelength * row_bytes
    return bool((np.asarray(offsets) == expected).all()) and sum(counts) == total


def _plane_behind(page: Any, first: int) -> NDArray[Any]:
    dtype = _stored_dtype(page).newbyteorder(page.parent.byteorder)
    shape = page.imagelength, page.imagewidth, page.samplesperpixel
    size = math.prod(shape) * dtype.itemsize
    file = page.parent.filehandle
    if first + size > file.size:
        raise refused("its TIFF data are cut off", "Copy it again.")
    if page.bitspersample % 8 or (page.samplesperpixel > 1 and int(page.planarconfig) == 2):
        raise refused("a TIFF stack of planar colours behind one page", "Save it anew.")
    pixels: NDArray[Any] = file.read_array(dtype, math.prod(shape), offset=first)
    return pixels.astype(dtype.newbyteorder("="), copy=False).reshape(shape)


def _segments(page: Any, is_planar: bool) -> Iterator[_Segment]:
    height, width = page.imagelength, page.imagewidth
    if page.is_tiled:
        rows, columns = page.tilelength, page.tilewidth
    else:
        rows, columns = min(page.rowsperstrip or height, height), width
    if not (rows > 0 and columns > 0):
        raise damaged("its strips or tiles have no size")
    planes = page.samplesperpixel if is_planar else 1
    number = -(-height // rows) * -(-width // columns) * planes
    if number > MAX_SEGMENTS:
        raise refused(
            f"a TIFF page of {number:,} strips or tiles", "Save it with strips of some rows each."
        )
    if page.is_tiled and rows * columns > 4 * max(height * width, 1 << 16):
        raise damaged(f"tiles of {rows} x {columns} px for {height} x {width} px")
    index = 0
    for sample in range(planes):
        for top in range(0, height, rows):
            for left in range(0, width, columns):
                least = rows if page.is_tiled else min(rows, height - top)
                yield _Segment(sample, top, left, rows, columns, index, least)
                index += 1


def _segment_pixels(page: Any, data: bytes, segment: _Segment, samples: int) -> NDArray[Any]:
    """Return ``[rows, columns, samples]`` of one strip or tile."""
    codec = int(page.compression)
    if codec == JPEG:
        is_rgb = page.photometric == _PHOTOMETRIC.RGB
        size = segment.least_rows, segment.rows, segment.columns
        return decode_jpeg(data, page.jpegtables, is_rgb, size, samples)
    if codec not in DECODERS:
        return _by_imagecodecs(page, data, segment, samples)
    if int(page.fillorder) == 2:
        data = data.translate(REVERSED)
    bits = page.bitspersample
    row_bytes = (segment.columns * samples * bits + 7) // 8
    data = decompress(data, codec, segment.least_rows * row_bytes, segment.rows * row_bytes)
    rows = len(data) // row_bytes
    lines = np.frombuffer(data, np.uint8, rows * row_bytes).reshape(rows, row_bytes)
    shape = rows, segment.columns, samples
    if bits % 8:
        return _unpacked(lines, bits, shape[1] * samples).reshape(shape)
    if page.predictor == 3:
        return _without_float_predictor(lines, page, shape)
    stored = _stored_dtype(page).newbyteorder(page.parent.byteorder)
    values = lines.view(stored).astype(stored.newbyteorder("=")).reshape(shape)
    if page.predictor == 2:
        whole = values.view(f"u{values.dtype.itemsize}")
        summed: NDArray[Any] = np.cumsum(whole, axis=1, dtype=whole.dtype).view(values.dtype)
        return summed
    if page.predictor != 1:
        raise Damaged(f"predictor {page.predictor} is unknown")
    return values


def _unpacked(lines: NDArray[np.uint8], bits: int, count: int) -> NDArray[Any]:
    """Return values that are packed without gaps in each row, most significant bit first."""
    dtype = np.uint8 if bits < 8 else np.uint16
    found = np.empty((len(lines), count), dtype)
    weights = (1 << np.arange(bits - 1, -1, -1)).astype(dtype)
    step = max(1, (1 << 22) // max(1, count * bits))  # rows at a time, for bounded memory
    for top in range(0, len(lines), step):
        single = np.unpackbits(lines[top : top + step], axis=1)[:, : count * bits]
        found[top : top + step] = single.reshape(-1, count, bits).dot(weights)
    return found


def _without_float_predictor(
    lines: NDArray[np.uint8], page: Any, shape: tuple[int, int, int]
) -> NDArray[Any]:
    """Undo predictor 3: differences of bytes, the most significant byte of all values first."""
    dtype = _stored_dtype(page)
    if dtype.kind != "f":
        raise Damaged("predictor 3 is for floats")
    rows, columns, samples = shape
    steps = lines.reshape(rows, -1, samples)
    whole = np.cumsum(steps, axis=1, dtype=np.uint8).reshape(rows, dtype.itemsize, -1)
    big = np.ascontiguousarray(whole.swapaxes(1, 2)).view(dtype.newbyteorder(">"))
    return big.astype(dtype).reshape(rows, columns, samples)


def _by_imagecodecs(page: Any, data: bytes, segment: _Segment, samples: int) -> NDArray[Any]:
    """Decode by tifffile and imagecodecs, and check what comes."""
    try:
        decoded = page.decode(data, segment.index, _fullsize=False)[0]
    except Exception as error:  # imagecodecs has an error of its own for each codec
        raise Damaged(f"{codec_name(int(page.compression))} data: {error}") from error
    if decoded is None:
        raise Damaged("a strip or tile is empty")
    pixels = np.asarray(decoded)
    pixels = pixels.reshape(pixels.shape[-3:])
    columns = min(segment.columns, page.imagewidth - segment.left)
    rows = min(segment.least_rows, page.imagelength - segment.top)
    fits = pixels.shape[0] >= rows and pixels.shape[1] >= columns and pixels.shape[2] == samples
    if not fits or pixels.dtype.newbyteorder("=") != _stored_dtype(page):
        raise Damaged(
            f"{codec_name(int(page.compression))} data hold {pixels.shape} of {pixels.dtype}"
        )
    return pixels
