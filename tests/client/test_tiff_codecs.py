"""Every compression of TIFF is decoded right, or refused by its name with the remedy."""

from __future__ import annotations

import sys

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from cytoserve import UnreadableImage, read_frame
from cytoserve.tiff_codecs import DECODERS, JPEG, codec_name

ROWS, COLUMNS = np.mgrid[:70, :90]
GREY8 = (40 + 120 * np.exp(-(((ROWS % 32) - 16) ** 2 + ((COLUMNS % 32) - 16) ** 2) / 90)).astype(
    "u1"
)
RGB8 = np.stack([GREY8, 255 - GREY8, (ROWS + COLUMNS).astype(np.uint8)], -1)
GREY16 = (GREY8.astype(np.uint16) << 6) + 3
IMAGES = {
    "grey8": GREY8,
    "rgb8": RGB8,
    "grey16": GREY16,
    "int16": GREY16.astype(np.int16),
    "uint32": GREY16.astype(np.uint32),
    "float32": (GREY16 / 65535).astype(np.float32),
}
LAYOUTS = {"strip": {}, "strips": {"rowsperstrip": 17}, "tiles": {"tile": (32, 48)}}


def told_otherwise(path, compression):
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[0].tags["Compression"].overwrite(int(compression))


@pytest.mark.parametrize("number", [*(int(each) for each in tifffile.COMPRESSION), 12345])
def test_a_compression_without_its_decoder_is_refused_by_name(tmp_path, monkeypatch, number):
    """OpenCV's own decoders are never asked: they return black for what they do not know."""
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    tifffile.imwrite(tmp_path / "a.tif", GREY8)
    told_otherwise(tmp_path / "a.tif", number)
    if number == 1:
        np.testing.assert_array_equal(read_frame(tmp_path / "a.tif"), GREY8)
        return
    with pytest.raises(UnreadableImage) as refusal:
        read_frame(tmp_path / "a.tif")
    message = str(refusal.value)
    if number in DECODERS or number == JPEG:
        assert "truncated or damaged" in message
    else:
        assert f"given: a TIFF with {codec_name(number)} data" in message
        assert "without compression" in message


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("compression", [None, "zlib", "lzma", "lzw", "packbits"])
def test_lossless_codecs(tmp_path, compression, image, layout, byteorder):
    if compression in ("lzw", "packbits"):
        pytest.importorskip("imagecodecs", reason="imagecodecs writes the file")
    pixels = IMAGES[image]
    photometric = "rgb" if pixels.ndim == 3 else "minisblack"
    tifffile.imwrite(
        tmp_path / "a.tif",
        pixels,
        compression=compression,
        photometric=photometric,
        byteorder=byteorder,
        **LAYOUTS[layout],
    )
    np.testing.assert_array_equal(read_frame(tmp_path / "a.tif"), pixels)


@pytest.mark.parametrize("image", ["grey8", "rgb8", "grey16"])
@pytest.mark.parametrize("predictor", [1, 2])
def test_lzw_of_opencv(tmp_path, image, predictor):
    pixels = IMAGES[image]
    stored = pixels[..., ::-1] if pixels.ndim == 3 else pixels
    flags = [cv2.IMWRITE_TIFF_COMPRESSION, 5, cv2.IMWRITE_TIFF_PREDICTOR, predictor]
    assert cv2.imwrite(str(tmp_path / "a.tif"), stored, flags)
    np.testing.assert_array_equal(read_frame(tmp_path / "a.tif"), pixels)


@pytest.mark.parametrize(
    ("compression", "mode"),
    [
        (codec, mode)
        for codec in ("tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "raw")
        for mode in ("L", "RGB", "1", "P", "I;16", "F")
    ],
)
def test_files_of_pillow(tmp_path, compression, mode):
    """libtiff writes them, so this compares with another library."""
    source = Image.fromarray(RGB8 if mode in ("RGB", "P") else GREY8)
    image = Image.fromarray(GREY16) if mode == "I;16" else source.convert(mode)
    if mode == "P":
        image = source.quantize(32)
    image.save(tmp_path / "a.tif", compression=compression)
    frame = read_frame(tmp_path / "a.tif")
    with Image.open(tmp_path / "a.tif") as stored:
        expected = np.asarray(stored.convert("RGB") if mode == "P" else stored)
    if mode == "P":
        frame = frame >> 8  # palettes of TIFF have 16 bits
    elif mode == "1":
        expected = np.where(expected, 255, 0)
    np.testing.assert_array_equal(frame, expected)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_in_tiff_has_its_colours(tmp_path, mode):
    Image.fromarray(RGB8 if mode == "RGB" else GREY8).save(
        tmp_path / "a.tif", compression="jpeg", quality=95
    )
    with Image.open(tmp_path / "a.tif") as stored:
        expected = np.asarray(stored).astype(int)
    assert np.abs(read_frame(tmp_path / "a.tif") - expected).max() <= 2


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 2)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_jpeg_tiles_of_slides(tmp_path, layout, subsampling):
    pytest.importorskip("imagecodecs", reason="imagecodecs writes the file")
    options = {"rowsperstrip": 16} if layout == "strips" else LAYOUTS[layout]
    tifffile.imwrite(
        tmp_path / "a.tif",
        RGB8,
        photometric="rgb",
        compression="jpeg",
        compressionargs={"level": 95},
        subsampling=subsampling,
        **options,
    )
    np.testing.assert_array_equal(
        read_frame(tmp_path / "a.tif"), tifffile.imread(tmp_path / "a.tif")
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("image", ["grey8", "rgb8", "grey16"])
@pytest.mark.parametrize("codec", ["jpeg2000", "jpegxl", "png", "zstd", "webp", "lerc", "jpegxr"])
def test_codecs_of_the_extra(tmp_path, codec, image, layout):
    pytest.importorskip("imagecodecs")
    pixels = IMAGES[image]
    if (codec, image) in {("webp", "grey8"), ("webp", "grey16")}:
        pytest.skip("WebP is RGB")
    tifffile.imwrite(
        tmp_path / "a.tif",
        pixels,
        compression=codec,
        photometric="rgb" if pixels.ndim == 3 else "minisblack",
        **LAYOUTS[layout],
    )
    np.testing.assert_array_equal(
        read_frame(tmp_path / "a.tif"), tifffile.imread(tmp_path / "a.tif")
    )


@pytest.mark.parametrize("photometric", ["separated", "cielab", "cfa", "mask", "linear_raw"])
def test_colours_that_are_no_camera_s_are_refused_by_name(tmp_path, photometric):
    image = np.dstack([RGB8, GREY8]) if photometric == "separated" else GREY8
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="minisblack", planarconfig="contig")
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as file:
        number = tifffile.PHOTOMETRIC[photometric.upper()]
        file.pages[0].tags["PhotometricInterpretation"].overwrite(int(number))
    with pytest.raises(UnreadableImage, match=rf"given: a TIFF with {photometric.upper()} colours"):
        read_frame(tmp_path / "a.tif")
