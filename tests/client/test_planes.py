from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest
import tifffile

from cytoserve import InvalidSetting, UnreadableImage, read_frame, read_planes
from cytoserve.errors import FrameTooLarge

RANDOM = np.random.default_rng(0)
STACK = RANDOM.integers(0, 4096, (4, 3, 2, 20, 30)).astype(np.uint16)  # T, Z, C, Y, X
MOVIE = STACK[:, 0, 0]
RGB = RANDOM.integers(0, 256, (4, 20, 30, 3)).astype(np.uint8)
DAPI_GFP = {"Channel": {"Name": ["DAPI", "GFP"]}}


def plain(image, **options):
    return lambda path: tifffile.imwrite(path, image, **options)


def hyperstack(**options):
    labels = ["c:1/2 - DAPI", "c:2/2 - GFP"] * 12
    return plain(STACK, imagej=True, metadata={"axes": "TZCYX", "Labels": labels}, **options)


def behind_one_page(path):
    """ImageJ writes stacks beyond 4 GB behind a single page: cut the link to the second."""
    hyperstack()(path)
    data = bytearray(path.read_bytes())
    order = "<" if data[:2] == b"II" else ">"
    (first,) = struct.unpack_from(order + "I", data, 4)
    (entries,) = struct.unpack_from(order + "H", data, first)
    struct.pack_into(order + "I", data, first + 2 + 12 * entries, 0)
    path.write_bytes(bytes(data))


def ome(image, axes, **options):
    metadata = {"axes": axes} | (DAPI_GFP if "C" in axes else {})
    return plain(image, ome=True, metadata=metadata, **options)


def pyramid(path):
    with tifffile.TiffWriter(path) as file:
        file.write(MOVIE, subifds=1, metadata={"axes": "TYX"})
        file.write(MOVIE[:, ::2, ::2], subfiletype=1)


def positions(path):
    with tifffile.TiffWriter(path) as file:
        for number, volume in enumerate(STACK[:, :, 0]):
            file.write(volume, metadata={"axes": "ZYX", "Name": f"well {number}"})


ALL = [f"t00{t}_z0{z}_c{c}" for t in range(4) for z in range(3) for c in range(2)]
TIMES = [f"t00{t}" for t in range(4)]


@pytest.mark.parametrize(
    ("name", "write", "labels", "planes"),
    [
        pytest.param("a.tif", hyperstack(), ALL, STACK, id="imagej"),
        pytest.param("a.tif", behind_one_page, ALL, STACK, id="imagej-behind-one-page"),
        pytest.param("a.tif", hyperstack(compression="zlib"), ALL, STACK, id="imagej-zlib"),
        pytest.param("a.ome.tif", ome(STACK, "TZCYX"), ALL, STACK, id="ome"),
        pytest.param(
            "a.ome.tif", ome(STACK.swapaxes(0, 2), "CZTYX"), ALL, STACK, id="ome-of-other-order"
        ),
        pytest.param("a.ome.tif", ome(STACK, "TZCYX", bigtiff=True), ALL, STACK, id="ome-bigtiff"),
        pytest.param(
            "a.ome.tif",
            ome(STACK, "TZCYX", tile=(16, 16), compression="zlib"),
            ALL,
            STACK,
            id="ome-tiles",
        ),
        pytest.param("a.ome.tif", pyramid, TIMES, MOVIE, id="pyramid-in-full-resolution"),
        pytest.param(
            "a.ome.tif",
            positions,
            [f"p0{p}_z0{z}" for p in range(4) for z in range(3)],
            STACK[:, :, 0],
            id="ome-positions",
        ),
        pytest.param(
            "a.ome.tif", ome(RGB, "TYXS", photometric="rgb"), TIMES, RGB, id="ome-rgb-movie"
        ),
        pytest.param(
            "a.tif",
            plain(MOVIE, photometric="minisblack", metadata=None),
            [f"z0{z}" for z in range(4)],
            MOVIE,
            id="plain-stack",
        ),
        pytest.param(
            "a.tif",
            plain(STACK[0, :, 0], photometric="minisblack", planarconfig="separate"),
            ["c0", "c1", "c2"],
            STACK[0, :, 0],
            id="planar-channels",
        ),
        pytest.param(
            "a.tif",
            plain(np.moveaxis(STACK[0, 0], 0, -1), photometric="minisblack", planarconfig="contig"),
            ["c0", "c1"],
            STACK[0, 0],
            id="interleaved-channels",
        ),
    ],
)
def test_every_plane_is_read_and_named_by_its_place(tmp_path, name, write, labels, planes):
    write(tmp_path / name)
    read = list(read_planes(tmp_path / name, channel="each"))
    assert [plane.label for plane in read] == labels
    shape = planes.shape[-3:] if planes.dtype == np.uint8 else planes.shape[-2:]
    for plane, expected in zip(read, planes.reshape(-1, *shape), strict=True):
        assert plane.frame.dtype == expected.dtype
        np.testing.assert_array_equal(plane.frame, expected)
    with pytest.raises(UnreadableImage, match=f"a file of {len(labels)} planes. Read it with"):
        read_frame(tmp_path / name)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        pytest.param({}, STACK[:, :, 0], id="defaults"),
        pytest.param({"channel": 1}, STACK[:, :, 1], id="number"),
        pytest.param({"channel": "GFP"}, STACK[:, :, 1], id="name"),
        pytest.param({"channel": "gfp", "time": 2}, STACK[2, :, 1], id="other case"),
        pytest.param({"channel": ["GFP", 0], "time": 0, "z": 1}, STACK[0, 1, ::-1], id="order"),
        pytest.param({"z": "max"}, STACK[:, :, 0].max(1), id="maximum"),
        pytest.param({"z": 2, "time": "1-2"}, STACK[1:3, 2, 0], id="range"),
        pytest.param({"z": "each", "time": [0, "2-3"]}, STACK[[0, 2, 3], :, 0], id="parts"),
    ],
)
def test_planes_are_chosen(tmp_path, choice, expected):
    ome(STACK, "TZCYX")(tmp_path / "a.ome.tif")
    read = np.stack([plane.frame for plane in read_planes(tmp_path / "a.ome.tif", **choice)])
    np.testing.assert_array_equal(read, expected.reshape(-1, 20, 30))


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ({"channel": "Cy5"}, "a channel is one that the file has: 0 DAPI, 1 GFP; given: 'Cy5'"),
        ({"channel": 2}, "given: '2'. Choose another with --channel."),
        ({"z": 3}, "A z is one that the file has: 0, 1, 2; given: '3'"),
        ({"time": "3-4"}, "given: '3-4'"),
        ({"position": 1}, "A position is one that the file has: 0"),
        ({"time": -1}, "given: '-1'"),
    ],
)
def test_a_plane_that_is_not_there_is_refused_by_name(tmp_path, choice, told):
    ome(STACK, "TZCYX")(tmp_path / "a.ome.tif")
    with pytest.raises(InvalidSetting) as refusal:
        list(read_planes(tmp_path / "a.ome.tif", **choice))
    assert str(refusal.value).startswith(str(tmp_path / "a.ome.tif"))
    assert told.casefold() in str(refusal.value).casefold()


def test_names_and_pixel_sizes_come_with_the_plane(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as file:
        for name, size in (("left", 0.5), ("right", 0.25)):
            told = {"axes": "CYX", "Name": name, "PhysicalSizeX": size} | DAPI_GFP
            file.write(STACK[0, 0], metadata=told)
    planes = list(read_planes(tmp_path / "a.ome.tif", channel="each"))
    assert [plane.position_name for plane in planes] == ["left", "left", "right", "right"]
    assert [plane.channel_name for plane in planes] == ["DAPI", "GFP"] * 2
    assert [plane.pixel_size_um for plane in planes] == [0.5, 0.5, 0.25, 0.25]


def test_a_frame_of_one_plane_is_a_plane_without_a_label(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", MOVIE[0])
    (plane,) = read_planes(tmp_path / "a.tif", z="max", time=0, channel="0")
    assert plane.label == ""
    np.testing.assert_array_equal(plane.frame, MOVIE[0])


def test_planes_are_read_one_at_a_time(tmp_path, monkeypatch):
    ome(MOVIE, "TYX", tile=(16, 16))(tmp_path / "a.ome.tif")
    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", None)
    seen = []
    real = tifffile.FileHandle.seek
    monkeypatch.setattr(
        tifffile.FileHandle, "seek", lambda file, *at: seen.append(at) or real(file, *at)
    )
    planes = read_planes(tmp_path / "a.ome.tif")
    next(planes)
    first = len(seen)
    next(planes)
    assert len(seen) > first
    planes.close()


def test_planes_that_differ_are_refused(tmp_path):
    ome(MOVIE, "TYX", rowsperstrip=20)(tmp_path / "a.ome.tif")
    with tifffile.TiffFile(tmp_path / "a.ome.tif", mode="r+") as file:
        file.pages[2].tags["BitsPerSample"].overwrite(8)
    planes = read_planes(tmp_path / "a.ome.tif")
    np.testing.assert_array_equal(next(planes).frame, MOVIE[0])
    next(planes)
    with pytest.raises(UnreadableImage, match="whose planes differ"):
        next(planes)


def test_a_file_of_several_gives_its_own_planes(tmp_path):
    """An OME-TIFF of several files names all planes in each file."""
    names = [f"{name}.ome.tif" for name in "ab"]
    data = "".join(
        f'<TiffData FirstT="{t}" IFD="0" PlaneCount="1"><UUID FileName="{name}">urn:uuid:{t}</UUID>'
        "</TiffData>"
        for t, name in enumerate(names)
    )
    for t, name in enumerate(names):
        xml = (
            '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="urn:uuid:{t}"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" '
            'Type="uint16" SizeX="30" SizeY="20" SizeC="1" SizeZ="1" SizeT="2">'
            f"{data}</Pixels></Image></OME>"
        )
        tifffile.imwrite(tmp_path / name, MOVIE[t], description=xml, metadata=None)
    for t, name in enumerate(names):
        (plane,) = read_planes(tmp_path / name)
        assert plane.label == f"t00{t}"
        np.testing.assert_array_equal(plane.frame, MOVIE[t])
    (tmp_path / "b.ome.tif").unlink()
    (plane,) = read_planes(tmp_path / "a.ome.tif")
    np.testing.assert_array_equal(plane.frame, MOVIE[0])


def test_too_large_planes_are_refused_undecoded(tmp_path):
    ome(MOVIE, "TYX")(tmp_path / "a.ome.tif")
    with tifffile.TiffFile(tmp_path / "a.ome.tif", mode="r+") as file:
        for page in file.pages:
            page.tags["ImageWidth"].overwrite(2**31, dtype="I")
    with pytest.raises((FrameTooLarge, UnreadableImage)):
        list(read_planes(tmp_path / "a.ome.tif"))


@pytest.mark.parametrize("z", ["each", "max"])
def test_the_memory_is_that_of_a_plane(tmp_path, z):
    planes = np.zeros((64, 256, 256), np.uint16)
    tifffile.imwrite(
        tmp_path / "a.ome.tif", planes, ome=True, compression="zlib", metadata={"axes": "ZYX"}
    )
    tracemalloc.start()
    try:
        for plane in read_planes(tmp_path / "a.ome.tif", z=z):
            assert plane.frame.nbytes == planes[0].nbytes
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 12 * planes[0].nbytes


def test_a_file_is_closed_when_its_planes_are_read_or_left(tmp_path):
    """An open file would be told as a warning, which is an error here."""
    ome(MOVIE, "TYX")(tmp_path / "a.ome.tif")
    for _ in read_planes(tmp_path / "a.ome.tif"):
        break
    with pytest.raises(InvalidSetting):
        list(read_planes(tmp_path / "a.ome.tif", time=99))
    (tmp_path / "a.ome.tif").rename(tmp_path / "b.ome.tif")
