from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from cytoserve.errors import FrameTooLarge, InvalidRequest, UnreadableImage, UnsupportedImage
from cytoserve.frames import check_frame
from cytoserve.images import image_size, read_frame, read_integers, read_pixel_size

RANDOM = np.random.default_rng(0)
GREY8 = RANDOM.integers(0, 256, (20, 30)).astype(np.uint8)
GREY16 = RANDOM.integers(0, 65536, (20, 30)).astype(np.uint16)
RGB8 = RANDOM.integers(0, 256, (20, 30, 3)).astype(np.uint8)
RGB16 = RANDOM.integers(0, 65536, (20, 30, 3)).astype(np.uint16)


def with_cv2(image, *flags):
    def write(path):
        stored = image[..., [2, 1, 0, *range(3, image.shape[2])]] if image.ndim == 3 else image
        assert cv2.imwrite(str(path), stored, list(flags))

    return write


def with_tifffile(image, **options):
    return lambda path: tifffile.imwrite(path, image, **options)


def chunk(kind, content):
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def png(width, height, depth, colour, *chunks, data=b""):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + data + chunk(b"IEND", b"")


PALETTE = RANDOM.integers(0, 256, (256, 3)).astype(np.uint8)
PALETTE_PNG = png(
    30,
    20,
    8,
    3,
    chunk(b"PLTE", PALETTE.tobytes()),
    chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in GREY8))),
)
COLOURMAP = RANDOM.integers(0, 65536, (3, 256)).astype(np.uint16)
LZW = cv2.IMWRITE_TIFF_COMPRESSION, 5


def oriented(image, orientation, compression=None):
    """A TIFF with a tag that says how to turn it."""
    return lambda path: Image.fromarray(image).save(
        path, compression=compression, tiffinfo={274: orientation}
    )


@pytest.mark.parametrize(
    ("name", "write", "expected"),
    [
        pytest.param("a.png", with_cv2(GREY8), GREY8, id="png-grey8"),
        pytest.param("a.png", with_cv2(GREY16), GREY16, id="png-grey16"),
        pytest.param("a.png", with_cv2(RGB8), RGB8, id="png-rgb8"),
        pytest.param("a.png", with_cv2(RGB16), RGB16, id="png-rgb16"),
        pytest.param(
            "a.png", lambda p: p.write_bytes(PALETTE_PNG), PALETTE[GREY8], id="png-palette"
        ),
        pytest.param("a.bmp", with_cv2(RGB8), RGB8, id="bmp"),
        pytest.param("a.tif", with_tifffile(GREY8), GREY8, id="tiff-grey8"),
        pytest.param("a.tif", with_tifffile(GREY16), GREY16, id="tiff-grey16"),
        pytest.param("a.tif", with_tifffile(GREY16, byteorder=">"), GREY16, id="tiff-big-endian"),
        pytest.param("a.tif", with_tifffile(GREY16, bigtiff=True), GREY16, id="bigtiff"),
        pytest.param("a.tif", with_tifffile(GREY16, compression="zlib"), GREY16, id="tiff-zlib"),
        pytest.param("a.tif", with_tifffile(GREY16, tile=(16, 16)), GREY16, id="tiff-tiles"),
        pytest.param("a.tif", with_tifffile(RGB16, photometric="rgb"), RGB16, id="tiff-rgb16"),
        pytest.param(
            "a.tif",
            with_tifffile(
                np.moveaxis(RGB8, -1, 0).copy(), photometric="rgb", planarconfig="separate"
            ),
            RGB8,
            id="tiff-planar",
        ),
        pytest.param(
            "a.tif", with_tifffile(255 - GREY8, photometric="miniswhite"), GREY8, id="tiff-inverted"
        ),
        pytest.param(
            "a.tif",
            with_tifffile(GREY8, photometric="palette", colormap=COLOURMAP),
            np.moveaxis(COLOURMAP[:, GREY8], 0, -1),
            id="tiff-palette",
        ),
        pytest.param("a.tif", with_tifffile(GREY16, imagej=True), GREY16, id="imagej"),
        pytest.param("a.ome.tif", with_tifffile(GREY16, ome=True), GREY16, id="ome-tiff"),
        pytest.param("a.tif", with_cv2(GREY16, *LZW), GREY16, id="tiff-lzw-grey16"),
        pytest.param("a.tif", with_cv2(RGB8, *LZW), RGB8, id="tiff-lzw-rgb"),
        *(
            pytest.param(
                "a.tif", oriented(image, 6, codec), np.rot90(image, -1), id=f"{kind}-on-its-side"
            )
            for codec in (None, "tiff_lzw")
            for kind, image in ((f"tiff-{codec}-grey16", GREY16), (f"tiff-{codec}-rgb", RGB8))
        ),
        pytest.param("a.tif", oriented(GREY16, 1, "tiff_lzw"), GREY16, id="tiff-lzw-upright"),
        pytest.param(
            "a.tif",
            with_tifffile(GREY8.astype(np.float32) / 255),
            GREY8 / np.float32(255),
            id="float",
        ),
        pytest.param("a.txt", with_tifffile(GREY8), GREY8, id="name-does-not-matter"),
        pytest.param(
            "Zelle Ω.png", lambda p: p.write_bytes(PALETTE_PNG), PALETTE[GREY8], id="name"
        ),
    ],
)
def test_read(tmp_path, name, write, expected):
    write(tmp_path / name)
    frame = read_frame(tmp_path / name)
    assert frame.dtype == expected.dtype
    np.testing.assert_array_equal(frame, expected)


COUNTS = RANDOM.integers(100, 4096, (20, 30))


@pytest.mark.parametrize(
    "dtype", ["int16", "int32", "uint32", "int64", "uint64", "float32", "float64", ">i4", ">f4"]
)
@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}], ids=["plain", "zlib"])
def test_counts_that_fit_are_read_from_any_dtype(tmp_path, dtype, options):
    tifffile.imwrite(tmp_path / "a.tif", COUNTS.astype(dtype), **options)
    frame = read_frame(tmp_path / "a.tif")
    assert frame.dtype == np.uint16
    np.testing.assert_array_equal(frame, COUNTS)


def test_counts_with_a_fraction_are_rounded(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", COUNTS.astype(np.float32) + np.float32(0.25))
    np.testing.assert_array_equal(read_frame(tmp_path / "a.tif"), COUNTS)


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_one_bit_is_black_and_white(tmp_path, photometric):
    mask = GREY8 > 99
    tifffile.imwrite(tmp_path / "a.tif", mask, photometric=photometric)
    expected = mask if photometric == "minisblack" else ~mask
    np.testing.assert_array_equal(read_frame(tmp_path / "a.tif"), np.where(expected, 255, 0))


@pytest.mark.parametrize("kind", ["plain", "lzw"])
@pytest.mark.parametrize("bits", [2, 4, 10, 12, 14])
def test_packed_bits_are_unpacked(tmp_path, bits, kind):
    rows = GREY8[:, : 30 // bits * bits]
    write = with_tifffile(rows.copy()) if kind == "plain" else with_cv2(rows.copy(), *PLAIN_LZW)
    packed(write, bits, rows.shape[1])(tmp_path / "a.tif")
    values = [
        int("".join(f"{value:08b}" for value in row)[at : at + bits], 2)
        for row in rows
        for at in range(0, 8 * rows.shape[1], bits)
    ]
    expected = np.array(values).reshape(20, -1) * (255 // (2**bits - 1) if bits < 8 else 1)
    np.testing.assert_array_equal(read_frame(tmp_path / "a.tif"), expected)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(tmp_path, suffix, orientation):
    smooth = cv2.GaussianBlur(GREY8, (0, 0), 4)
    exif = Image.Exif()
    exif[274] = orientation
    told = {"tiffinfo": {274: orientation}} if suffix == ".tif" else {"exif": exif}
    path = tmp_path / f"a{suffix}"
    Image.fromarray(smooth).save(path, **told)
    Image.fromarray(smooth).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as stored:
        upright = np.asarray(ImageOps.exif_transpose(stored)).astype(int)
    frame = read_frame(path)
    assert frame.shape == upright.shape
    assert np.abs(frame - upright).max() <= (8 if suffix == ".jpg" else 0)
    if suffix != ".tif":
        with path.open("rb") as file:
            assert image_size(file) == frame.shape


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        pytest.param(GREY8, GREY8, id="uint8"),
        pytest.param(GREY16, GREY16, id="uint16"),
        pytest.param(
            GREY16.astype(np.float32) / 65535, GREY16, id="float: what the server gets of it"
        ),
    ],
)
def test_read_integers(tmp_path, written, expected):
    tifffile.imwrite(tmp_path / "a.tif", written)
    frame = read_integers(tmp_path / "a.tif")
    assert frame.dtype == expected.dtype
    np.testing.assert_array_equal(frame, expected)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        pytest.param(np.nan, "1 values NaN", id="nan"),
        pytest.param(-1.0, "from -1 to 0", id="negative"),
        pytest.param(70_000.0, "from 0 to 70000", id="more than 16 bits"),
        pytest.param(1.5, "from 0 to 1.5 with fractions", id="fractions"),
    ],
)
def test_floats_that_are_no_frame_are_refused_by_name(tmp_path, value, told):
    image = np.zeros((4, 5), np.float32)
    image[1, 2] = value
    tifffile.imwrite(tmp_path / "a.tif", image)
    with pytest.raises(UnsupportedImage, match=told) as error:
        read_integers(tmp_path / "a.tif")
    assert str(error.value).startswith(f"{tmp_path / 'a.tif'}: A float frame is")


def test_read_jpeg(tmp_path):
    smooth = cv2.GaussianBlur(RGB8, (0, 0), 4)
    with_cv2(smooth)(tmp_path / "a.jpg")
    frame = read_frame(tmp_path / "a.jpg")
    assert np.abs(frame.astype(int) - smooth).mean() < 4  # and not blue for red
    with_cv2(GREY8)(tmp_path / "b.jpeg")
    assert read_frame(str(tmp_path / "b.jpeg")).shape == (20, 30)


def cut(write, keep):
    def cut_off(path):
        write(path)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * keep) if keep < 1 else -keep])

    return cut_off


def content(data):
    return lambda path: path.write_bytes(data)


def flipped(path):
    with_cv2(GREY16)(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))


def one_page_stack(path):
    """ImageJ keeps large stacks behind a single directory: cut the link to the second one."""
    with_tifffile(GREY_STACK, imagej=True)(path)
    link_directory(path, itself=False)


def link_directory(path, itself):
    """Let the first directory of a TIFF be followed by itself, or by none."""
    data = bytearray(path.read_bytes())
    order = "<" if data[:2] == b"II" else ">"
    (first,) = struct.unpack_from(order + "I", data, 4)
    (entries,) = struct.unpack_from(order + "H", data, first)
    struct.pack_into(order + "I", data, first + 2 + 12 * entries, first if itself else 0)
    path.write_bytes(bytes(data))


def packed(write, bits, row_bytes):
    """Let a TIFF of 8 bits a value be one of other values."""

    def pack(path):
        write(path)
        with tifffile.TiffFile(path, mode="r+") as tiff:
            for tag, value in (("ImageWidth", row_bytes * 8 // bits), ("BitsPerSample", bits)):
                tiff.pages[0].tags[tag].overwrite(value)

    return pack


BROKEN = "truncated or damaged"
PLAIN_LZW = (*LZW, cv2.IMWRITE_TIFF_PREDICTOR, 1)
GREY_STACK = np.stack([GREY8] * 3)


@pytest.mark.parametrize(
    ("name", "write", "told"),
    [
        pytest.param("a.png", lambda path: None, "no file", id="missing"),
        pytest.param("a.png", lambda path: path.mkdir(), "no file", id="folder"),
        pytest.param("a.png", content(b""), "empty", id="empty-png"),
        pytest.param("a.tif", content(b""), "empty", id="empty-tiff"),
        pytest.param("a.png", content(b"x"), "no PNG", id="one-byte"),
        pytest.param("a.png", content(b"hello, I am text\n" * 9), "no PNG, JPEG", id="text-png"),
        pytest.param("a.tif", content(b"hello, I am text\n" * 9), "no PNG, JPEG", id="text-tiff"),
        pytest.param("a.gif", content(b"GIF89a" + bytes(99)), "Convert it", id="gif"),
        *(
            pytest.param(name, cut(write, keep), told, id=f"{name}-{kind}-cut-{keep}")
            for name, kind, write, told in [
                ("a.png", "grey16", with_cv2(GREY16), BROKEN),
                ("a.jpg", "rgb", with_cv2(RGB8), BROKEN),
                ("a.bmp", "rgb", with_cv2(RGB8), BROKEN),
                ("a.tif", "plain", with_tifffile(GREY16), ""),
                ("a.tif", "zlib", with_tifffile(GREY16, compression="zlib"), ""),
                ("a.tif", "tiles", with_tifffile(GREY16, tile=(16, 16)), ""),
                ("a.tif", "strips", with_tifffile(GREY16, rowsperstrip=5), ""),
                ("a.tif", "lzw", with_cv2(GREY16, *LZW), ""),
            ]
            for keep in (0.02, 0.1, 0.6, 0.95, 1)
            if (kind, keep) != ("lzw", 1)  # there the last byte belongs to no pixel
        ),
        pytest.param("a.png", flipped, BROKEN, id="flipped-bits"),
        pytest.param("a.png", content(PALETTE_PNG[:8] + bytes(90)), "no PNG header", id="zeros"),
        pytest.param("a.tif", content(b"II*\0" + bytes(60)), "", id="tiff-zeros"),
        pytest.param("a.tif", content(b"II*\0\xff\xff\xff\xff"), "", id="tiff-beyond-the-end"),
        pytest.param(
            "a.tif", with_tifffile(GREY_STACK, photometric="minisblack"), "3 planes", id="stack"
        ),
        pytest.param(
            "a.tif", with_tifffile(GREY_STACK, imagej=True), "3 planes", id="imagej-stack"
        ),
        pytest.param("a.tif", one_page_stack, "3 planes", id="imagej-stack-of-one-page"),
        pytest.param(
            "a.tif",
            with_tifffile(GREY_STACK[:2], ome=True, metadata={"axes": "CYX"}),
            "2 planes",
            id="ome-channels",
        ),
        pytest.param(
            "a.tif",
            with_tifffile(np.zeros((16, 32, 32), np.uint8), volumetric=True, tile=(16, 16, 16)),
            "axes",
            id="volume",
        ),
    ],
)
def test_unreadable_names_file_and_remedy(tmp_path, name, write, told):
    path = tmp_path / name
    write(path)
    with pytest.raises(UnreadableImage) as refusal:
        read_frame(path)
    message = str(refusal.value)
    assert message.startswith(f"{path}: A file must hold one whole frame; given: ")
    assert told in message
    assert message.endswith(".")


def test_a_tiff_that_loops_ends(tmp_path):
    with_tifffile(GREY8)(tmp_path / "a.tif")
    link_directory(tmp_path / "a.tif", itself=True)
    np.testing.assert_array_equal(read_frame(tmp_path / "a.tif"), GREY8)


@pytest.mark.parametrize(
    ("name", "write", "told"),
    [
        pytest.param(
            "a.png", with_cv2(np.dstack([RGB8, GREY8])), "without its alpha", id="rgba-png"
        ),
        pytest.param(
            "a.png",
            content(png(2, 1, 8, 4, chunk(b"IDAT", zlib.compress(b"\0\1\2\3\4")))),
            "without its alpha",
            id="grey-alpha-png",
        ),
        pytest.param(
            "a.tif",
            with_tifffile(np.dstack([RGB8, GREY8]), photometric="rgb", extrasamples=[2]),
            "Drop the alpha",
            id="rgba-tiff",
        ),
        *(
            pytest.param("a.tif", with_tifffile(stored), f"within 0..65535; given: {told}", id=told)
            for stored, told in (
                (GREY8.astype(np.int32) - 300, "int32 from"),
                (GREY8.astype(np.uint32) + 65_500, "uint32 from"),
                (GREY8.view(np.int8), "int8 from"),
                (GREY8.astype(np.int64) << 40, "int64 from"),
            )
        ),
    ],
)
def test_unsupported_names_file_and_remedy(tmp_path, name, write, told):
    write(tmp_path / name)
    with pytest.raises(UnsupportedImage) as refusal:
        read_frame(tmp_path / name)
    assert str(refusal.value).startswith(f"{tmp_path / name}: A ")
    assert told in str(refusal.value)


def tiff_claiming(width, height):
    """The header of a large TIFF with hardly any data."""

    def write(path):
        with_tifffile(GREY8)(path)
        with tifffile.TiffFile(path, mode="r+") as tiff:
            for tag, value in (("ImageWidth", width), ("ImageLength", height)):
                entry = tiff.pages[0].tags[tag]
                entry.overwrite(value, dtype="I")

    return write


def jpeg_claiming(width, height):
    def write(path):
        with_cv2(GREY8)(path)
        data = path.read_bytes()
        at = data.index(b"\xff\xc0") + 5
        path.write_bytes(data[:at] + struct.pack(">HH", height, width) + data[at + 4 :])

    return write


def bmp_claiming(width, height):
    def write(path):
        with_cv2(GREY8)(path)
        data = path.read_bytes()
        path.write_bytes(data[:18] + struct.pack("<ii", width, -height) + data[26:])

    return write


@pytest.mark.parametrize(
    ("name", "write"),
    [
        pytest.param("a.png", content(png(100_000, 100_000, 8, 2)), id="png"),
        pytest.param("a.png", content(png(1, 2**31 - 1, 16, 0)), id="png-tall"),
        pytest.param("a.jpg", jpeg_claiming(65_000, 65_000), id="jpeg"),
        pytest.param("a.bmp", bmp_claiming(60_000, 60_000), id="bmp"),
        pytest.param("a.tif", tiff_claiming(2**31, 2**31), id="tiff"),
    ],
)
def test_bombs_are_refused_from_the_header(tmp_path, monkeypatch, name, write):
    path = tmp_path / name
    write(path)

    def decodes(*_):
        raise AssertionError("decoded before the size was checked")

    monkeypatch.setattr(cv2, "imdecode", decodes)
    monkeypatch.setattr(tifffile.TiffPage, "asarray", decodes)
    with pytest.raises(FrameTooLarge, match=r"a\.\w+: A frame has sides of at most .* Cut it"):
        read_frame(path)


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(PALETTE_PNG)

    def refuse(*_, **__):
        raise PermissionError(
            13, "Permission denied"
        )  # root may read anything, so chmod is no test

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(UnreadableImage, match="Permission denied"):
        read_frame(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["png", "jpg", "bmp", "tif", "zlib", "ome", "tiles"])
def test_damage_of_any_kind_ends_in_our_error(tmp_path, kind):
    write = {
        "png": with_cv2(GREY16),
        "jpg": with_cv2(RGB8),
        "bmp": with_cv2(RGB8),
        "tif": with_tifffile(GREY16),
        "zlib": with_tifffile(GREY16, compression="zlib"),
        "ome": with_tifffile(GREY16, ome=True),
        "tiles": with_tifffile(RGB8, photometric="rgb", tile=(16, 16)),
    }[kind]
    path = tmp_path / f"a.{kind if len(kind) == 3 and kind != 'ome' else 'tif'}"
    write(path)
    whole = path.read_bytes()
    random = np.random.default_rng(7)
    refused = 0
    for _ in range(40):
        data = np.frombuffer(whole, np.uint8).copy()
        places = random.integers(0, min(len(data), 400), 4)
        data[places] = random.integers(0, 256, 4)
        path.write_bytes(data.tobytes())
        read_pixel_size(path)  # raises nothing
        try:
            check_frame(read_frame(path))
        except InvalidRequest:
            refused += 1
    assert refused


def ome(**pixels):
    return with_tifffile(GREY16, ome=True, metadata={"axes": "YX", **pixels})


def imagej(resolution=(1 / 0.65, 1 / 0.65), **metadata):
    return with_tifffile(GREY16, imagej=True, resolution=resolution, metadata=metadata)


@pytest.mark.parametrize(
    ("write", "size"),
    [
        pytest.param(ome(PhysicalSizeX=0.65), 0.65, id="ome-without-unit"),
        pytest.param(ome(PhysicalSizeX=0.65, PhysicalSizeXUnit="\u00b5m"), 0.65, id="ome-um"),
        pytest.param(ome(PhysicalSizeX=0.65, PhysicalSizeXUnit="\u03bcm"), 0.65, id="ome-greek-mu"),
        pytest.param(ome(PhysicalSizeX=650, PhysicalSizeXUnit="nm"), 0.65, id="ome-nm"),
        pytest.param(ome(PhysicalSizeX=0.00065, PhysicalSizeXUnit="mm"), 0.65, id="ome-mm"),
        pytest.param(ome(PhysicalSizeX=0.65, PhysicalSizeY=0.7), 0.65, id="ome-oblong"),
        pytest.param(
            with_tifffile(
                RGB8, ome=True, photometric="rgb", metadata={"axes": "YXS", "PhysicalSizeX": 2}
            ),
            2,
            id="ome-rgb",
        ),
        pytest.param(ome(), None, id="ome-untold"),
        pytest.param(ome(PhysicalSizeX=1, PhysicalSizeXUnit="pixel"), None, id="ome-pixel"),
        pytest.param(ome(PhysicalSizeX=0), None, id="ome-zero"),
        pytest.param(ome(PhysicalSizeX=-1), None, id="ome-negative"),
        pytest.param(ome(PhysicalSizeX=float("nan")), None, id="ome-nan"),
        pytest.param(
            ome(PhysicalSizeX=1, PhysicalSizeXUnit="m"), None, id="ome-beyond-a-microscope"
        ),
        pytest.param(imagej(unit="um"), 0.65, id="imagej-um"),
        pytest.param(imagej(unit="micron"), 0.65, id="imagej-micron"),
        pytest.param(imagej(unit="\\u00B5m"), 0.65, id="imagej-escaped-um"),
        pytest.param(imagej((1 / 650, 1 / 650), unit="nm"), 0.65, id="imagej-nm"),
        pytest.param(imagej((10_000, 10_000), unit="cm"), 1, id="imagej-cm"),
        pytest.param(imagej((72, 72), unit="inch"), None, id="imagej-inch"),
        pytest.param(imagej(), None, id="imagej-without-unit"),
        pytest.param(imagej((0, 1), unit="um"), None, id="imagej-zero"),
        pytest.param(
            with_tifffile(GREY16, resolution=(300, 300), resolutionunit="INCH"), None, id="inches"
        ),
        pytest.param(
            with_tifffile(GREY16, resolution=(1e4, 1e4), resolutionunit="CENTIMETER"),
            None,
            id="no-microscope",
        ),
        pytest.param(with_tifffile(GREY16, description="<OME>broken</OME>"), None, id="broken-ome"),
        pytest.param(with_cv2(GREY16), None, id="png"),
        pytest.param(lambda path: path.write_bytes(b""), None, id="empty"),
        pytest.param(lambda path: path.write_bytes(b"II*\0\x08"), None, id="cut-off"),
        pytest.param(lambda path: None, None, id="missing"),
    ],
)
def test_pixel_sizes(tmp_path, request, write, size):
    path = tmp_path / ("a.png" if "png" in request.node.name else "a.tif")
    write(path)
    assert read_pixel_size(path) == (None if size is None else pytest.approx(size))
