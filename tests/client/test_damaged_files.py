"""Damaged image files: each is read right or refused by name, quickly and in little memory."""

from __future__ import annotations

import resource
import struct
import sys
import time
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from cytoserve import InvalidRequest, read_planes
from cytoserve.images import read_pixel_size
from cytoserve.tiff_codecs import Damaged, decompress, has_codecs, lzw_decode

RANDOM = np.random.default_rng(0)
GREY8 = RANDOM.normal(120, 12, (40, 60)).clip(0, 255).astype(np.uint8)
GREY16 = RANDOM.integers(0, 65536, (40, 60)).astype(np.uint16)
RGB8 = RANDOM.integers(0, 256, (40, 60, 3)).astype(np.uint8)
STACK = RANDOM.integers(0, 4096, (3, 2, 40, 60)).astype(np.uint16)
SECONDS, MEMORY = 2.0, 1 << 30


def tiff(image, **options):
    return lambda path: tifffile.imwrite(path, image, **options)


def by_cv2(image, *flags):
    return lambda path: cv2.imwrite(str(path), image, list(flags))


def by_pillow(image, **options):
    return lambda path: Image.fromarray(image).save(path, **options)


def pyramid(path):
    with tifffile.TiffWriter(path) as file:
        file.write(GREY8, subifds=1, tile=(16, 16))
        file.write(GREY8[::2, ::2], subfiletype=1, tile=(16, 16))


LZW = (cv2.IMWRITE_TIFF_COMPRESSION, 5)
KINDS = {
    "grey8.png": by_cv2(GREY8),
    "grey16.png": by_cv2(GREY16),
    "rgb.png": by_cv2(RGB8),
    "rgb.jpg": by_cv2(RGB8),
    "progressive.jpg": by_pillow(RGB8, progressive=True),
    "rgb.bmp": by_cv2(RGB8),
    "plain.tif": tiff(GREY16),
    "big.tif": tiff(GREY16, bigtiff=True),
    "zlib.tif": tiff(GREY16, compression="zlib"),
    "tiles.tif": tiff(RGB8, photometric="rgb", tile=(16, 16)),
    "planar.tif": tiff(STACK[:, 0], photometric="minisblack", planarconfig="separate"),
    "bits.tif": tiff(GREY8 > 120),
    "palette.tif": by_pillow(GREY8, compression=None),
    "float.tif": tiff(GREY16.astype(np.float32), compression="zlib"),
    "lzw8.tif": by_cv2(GREY8, *LZW),
    "lzw16.tif": by_cv2(GREY16, *LZW),
    "packbits.tif": by_pillow(GREY8, compression="packbits"),
    "jpeg.tif": by_pillow(RGB8, compression="jpeg"),
    "hyperstack.tif": tiff(STACK, imagej=True, metadata={"axes": "ZCYX"}),
    "stack.ome.tif": tiff(STACK, ome=True, metadata={"axes": "ZCYX"}),
    "pyramid.ome.tif": pyramid,
}

if has_codecs():
    KINDS |= {
        f"{codec}.tif": tiff(GREY8, compression=codec, tile=(16, 16))
        for codec in ("jpeg2000", "jpegxl", "png", "zstd", "lerc", "jpegxr")
    }
    KINDS["webp.tif"] = tiff(RGB8, photometric="rgb", compression="webp")


def mutated(data: bytes, donor: bytes, random: np.random.Generator) -> bytes:
    """Flip bits, set bytes, cut, swap the header for another file's, or repeat a part."""
    kind = random.integers(0, 6)
    changed = bytearray(data)
    head = min(len(data), 600)
    if kind == 0:
        for place in random.integers(0, len(data), 1 + random.integers(0, 8)):
            changed[place] ^= 1 << random.integers(0, 8)
    elif kind == 1:
        for place in random.integers(0, head, 4):
            changed[place] = random.integers(0, 256)
    elif kind == 2:
        del changed[random.integers(0, len(data)) :]
    elif kind == 3:
        length = random.integers(4, min(head, len(donor)))
        changed[:length] = donor[:length]
    elif kind == 4:
        start = random.integers(0, len(data) - 1)
        end = start + random.integers(1, 200)
        changed[start:end] = random.bytes(len(changed[start:end]))
    else:
        start = random.integers(0, len(data) - 4)
        changed[start : start + 4] = random.choice(
            [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80"]
        )
    return bytes(changed)


def peak_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def read_all(path) -> bool:
    """Read all planes; return whether the file was refused. Other errors are raised."""
    told = ""
    try:
        for plane in read_planes(path, channel="each"):
            assert plane.frame.dtype.kind in "uf"
    except InvalidRequest as error:
        told = str(error)
    assert not told or (told.startswith(str(path)) and told.endswith("."))
    return bool(told)


def try_mutations(tmp_path, number: int, seed: int) -> None:
    whole = {}
    for name, write in KINDS.items():
        write(tmp_path / name)
        whole[name] = (tmp_path / name).read_bytes()
        assert not read_all(tmp_path / name), name
    random = np.random.default_rng(seed)
    before, refused, names = peak_bytes(), 0, list(whole)
    for turn in range(number):
        name = names[turn % len(names)]
        path = tmp_path / f"m{turn}_{name}"
        path.write_bytes(mutated(whole[name], whole[random.choice(names)], random))
        began = time.perf_counter()
        refused += read_all(path)
        read_pixel_size(path)  # raises nothing
        spent = time.perf_counter() - began
        assert spent < SECONDS, (path.name, spent)
        assert peak_bytes() - before < MEMORY, path.name
        path.unlink()
    assert number / 4 < refused < number


def png_chunk(kind: bytes, content: bytes, length: int | None = None) -> bytes:
    body = kind + content
    told = len(content) if length is None else length
    return struct.pack(">I", told) + body + struct.pack(">I", zlib.crc32(body))


def png(width: int, height: int, bits: int, colour: int, *chunks: bytes) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + png_chunk(b"IEND", b"")


def claims_a_chunk(path):
    path.write_bytes(png(60, 40, 8, 0, png_chunk(b"IDAT", b"x", 3_750_000_000)))


def is_rgba(path):
    rows = zlib.compress(bytes((1 + 16384 * 8) * 64), 9)
    path.write_bytes(png(16384, 16384, 16, 6, png_chunk(b"IDAT", rows)))


def retagged(path, **tags):
    with tifffile.TiffFile(path, mode="r+") as file:
        for tag, value in tags.items():
            file.pages[0].tags[tag].overwrite(value)


def has_tiny_tiles(path):
    tifffile.imwrite(path, np.zeros((256, 256), np.uint8), tile=(256, 256), compression="zlib")
    retagged(path, TileWidth=1, TileLength=1, ImageWidth=8192, ImageLength=8192)


def inflates(path):
    tifffile.imwrite(path, np.zeros((100, 100), np.uint8), compression="zlib")
    strip = zlib.compressobj(9)
    data = b"".join([*(strip.compress(bytes(1 << 20)) for _ in range(512)), strip.flush()])
    with tifffile.TiffFile(path) as file:
        offset = file.pages[0].dataoffsets[0]
    path.write_bytes(path.read_bytes()[:offset] + data)
    retagged(path, StripByteCounts=len(data))


def has_many_scans(path):
    Image.fromarray(RGB8).save(path, progressive=True)
    data = path.read_bytes()
    start = data.rindex(b"\xff\xda")
    path.write_bytes(data[:start] + data[start:-2] * 2000 + data[-2:])


@pytest.mark.parametrize(
    ("name", "write"),
    [
        pytest.param("a.png", claims_a_chunk, id="png-chunk-of-3.75-gb"),
        pytest.param("a.png", is_rgba, id="png-rgba-of-16-bits"),
        pytest.param("a.tif", has_tiny_tiles, id="tiff-of-67-million-tiles"),
        pytest.param("a.tif", inflates, id="strip-of-512-mib"),
        pytest.param("a.jpg", has_many_scans, id="jpeg-of-2000-scans"),
    ],
)
def test_small_files_that_claim_much_are_refused_from_their_headers(tmp_path, name, write):
    write(tmp_path / name)
    before, began = peak_bytes(), time.perf_counter()
    assert read_all(tmp_path / name)
    assert time.perf_counter() - began < SECONDS
    assert peak_bytes() - before < MEMORY / 4


def ome_xml(size_t: int, data: str = "") -> str:
    return (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" SizeX="60" '
        f'SizeY="40" SizeC="1" SizeZ="1" SizeT="{size_t}"><TiffData {data}/></Pixels></Image></OME>'
    )


MANY = 2_000_000_000


@pytest.mark.parametrize(
    "description",
    [
        pytest.param(ome_xml(MANY), id="ome"),
        pytest.param(ome_xml(3, f'PlaneCount="{MANY}"'), id="ome-plane-count"),
        pytest.param(ome_xml(MANY, f'FirstT="{MANY - 1}" PlaneCount="1"'), id="ome-first"),
        pytest.param(f"ImageJ=1.54\nimages={MANY}\nframes={MANY}\nhyperstack=true\n", id="imagej"),
        pytest.param(f'{{"shape": [{MANY}, 40, 60]}}', id="shaped"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_claims_of_many_planes_are_refused(tmp_path, description):
    tifffile.imwrite(tmp_path / "a.tif", GREY16, description=description, metadata=None)
    before, began = peak_bytes(), time.perf_counter()
    with pytest.raises(InvalidRequest, match="planes"):
        list(read_planes(tmp_path / "a.tif"))
    assert time.perf_counter() - began < SECONDS
    assert peak_bytes() - before < MEMORY / 4


@pytest.mark.parametrize("name", ["zlib.tif", "grey16.png", "stack.ome.tif"])
def test_damaged_pixels_are_refused_where_a_checksum_tells(tmp_path, name):
    """Compressed data have a checksum, so no changed byte of them may pass."""
    path = tmp_path / name
    tifffile.imwrite(path, STACK, compression="zlib", ome=True, metadata={"axes": "ZCYX"})
    if name != "stack.ome.tif":
        KINDS[name](path)
    whole = path.read_bytes()
    if name.endswith("png"):
        start = whole.index(b"IDAT") + 4
        end = len(whole) - 20
    else:
        with tifffile.TiffFile(path) as file:
            start, end = file.pages[0].dataoffsets[0], 0
            end = start + file.pages[0].databytecounts[0]
    for place in RANDOM.integers(start, end, 60):
        data = bytearray(whole)
        data[place] ^= 1 << RANDOM.integers(0, 8)
        path.write_bytes(bytes(data))
        assert read_all(path), place


@pytest.mark.parametrize("image", [GREY8, GREY16, RGB8], ids=["grey8", "grey16", "rgb"])
def test_damaged_lzw_is_refused(tmp_path, image):
    """LZW has no checksum, but forty wrong bytes make codes that were never given."""
    path = tmp_path / "a.tif"
    KINDS["lzw8.tif"](path) if image is GREY8 else by_cv2(image, *LZW)(path)
    whole = path.read_bytes()
    with tifffile.TiffFile(path) as file:
        start, count = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
    for place in RANDOM.integers(start + 50, start + count - 90, 30):
        data = whole[:place] + RANDOM.bytes(40) + whole[place + 40 :]
        path.write_bytes(data)
        assert read_all(path), place


def lzw_encode(data: bytes) -> bytes:
    """Encode as the TIFF specification says."""
    bits, table, width, held = [], {}, 9, b""

    def put(code):
        bits.append(f"{code:0{width}b}")

    put(256)
    for at in range(len(data)):
        byte = data[at : at + 1]
        if len(held) == 0 or held + byte in table:
            held += byte
            continue
        put(table.get(held, held[0]))
        table[held + byte] = 258 + len(table)
        width = max(9, (258 + len(table)).bit_length())
        if 258 + len(table) == 4095:
            put(256)
            table, width = {}, 9
        held = byte
    if held:
        put(table.get(held, held[0]))
        width = max(9, (259 + len(table)).bit_length())
    put(257)
    text = "".join(bits)
    return int(text.ljust(-(-len(text) // 8) * 8, "0"), 2).to_bytes(-(-len(text) // 8), "big")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"a", id="one"),
        pytest.param(bytes(100_000), id="zeros"),
        pytest.param(RANDOM.bytes(50_000), id="noise"),
        pytest.param(b"abababab" * 5000 + RANDOM.bytes(300) * 30, id="repeated"),
        pytest.param(GREY8.tobytes() * 20, id="picture"),
    ],
)
def test_lzw(data):
    coded = lzw_encode(data)
    assert lzw_decode(coded, len(data)) == data
    if len(data) > 1:
        with pytest.raises(Damaged):
            decompress(coded[: len(coded) // 2], 5, len(data), len(data))
        with pytest.raises(Damaged):
            lzw_decode(coded, len(data) - 1)


@pytest.mark.filterwarnings("ignore")
def test_mutated_files_are_read_or_refused(tmp_path):
    try_mutations(tmp_path, 150, seed=1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_thousand_mutated_files_are_read_or_refused(tmp_path):
    try_mutations(tmp_path, 2000, seed=2)
