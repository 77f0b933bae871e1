"""Formats that need an extra: what is missing is named; what is there is read.

The OME-Zarr are written by hand, chunk by chunk, so that only reading them needs the package.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from cytoserve import InvalidRequest, UnreadableImage, read_planes
from cytoserve.cli.exit_codes import ExitCode
from cytoserve.cli.inputs import find_inputs
from cytoserve.vendor_positions import NOT_READ, PLUGINS

STACK = np.random.default_rng(0).integers(0, 4096, (2, 2, 3, 40, 50)).astype("<u2")  # TCZYX
AXES = [
    {"name": "t", "type": "time"},
    {"name": "c", "type": "channel"},
    *({"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"),
]


def write_array(folder, image, version):
    folder.mkdir(parents=True)
    chunk = (*(1,) * (image.ndim - 2), 16, 16)
    if version == "0.4":
        told = {
            "zarr_format": 2,
            "shape": image.shape,
            "chunks": chunk,
            "dtype": "<u2",
            "compressor": None,
            "fill_value": 0,
            "order": "C",
            "filters": None,
            "dimension_separator": "/",
        }
        (folder / ".zarray").write_text(json.dumps(told))
        top = folder
    else:
        told = {
            "zarr_format": 3,
            "node_type": "array",
            "shape": image.shape,
            "data_type": "uint16",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": 0,
            "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
            "attributes": {},
        }
        (folder / "zarr.json").write_text(json.dumps(told))
        top = folder / "c"
    padded = np.pad(image, [(0, 0)] * (image.ndim - 2) + [(0, 8), (0, 14)])
    for lead in np.ndindex(image.shape[:-2]):
        for row in range(3):
            for column in range(4):
                part = padded[lead][16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
                path = top.joinpath(*map(str, (*lead, row, column)))
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(part.tobytes())


def write_group(folder, attributes, version):
    folder.mkdir(parents=True, exist_ok=True)
    if version == "0.4":
        (folder / ".zgroup").write_text('{"zarr_format": 2}')
        (folder / ".zattrs").write_text(json.dumps(attributes))
    else:
        told = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": attributes}}
        (folder / "zarr.json").write_text(json.dumps(told))


def write_image(folder, image, version, axes=None):
    axes = AXES[-image.ndim :] if axes is None else axes
    scale = [1.0] * (image.ndim - 2) + [0.5, 0.5]
    datasets = [
        {"path": path, "coordinateTransformations": [{"type": "scale", "scale": scale}]}
        for path in ("0", "1")
    ]
    attributes = {
        "multiscales": [{"version": version, "axes": axes, "datasets": datasets}],
        "omero": {"channels": [{"label": "DAPI"}, {"label": "GFP"}]},
    }
    write_group(folder, attributes, version)
    write_array(folder / "0", image, version)
    write_array(folder / "1", image[..., ::2, ::2], version)


def write_plate(folder, version):
    wells = {"A/1": STACK[0, :, :1], "B/2": STACK[1, :, :1]}
    write_group(folder, {"plate": {"wells": [{"path": path} for path in wells]}}, version)
    for path, image in wells.items():
        write_group(folder / path, {"well": {"images": [{"path": "0"}, {"path": "1"}]}}, version)
        for field in "01":
            write_image(folder / path / field, image + int(field), version, [AXES[1], *AXES[2:]])


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_an_ome_zarr_is_read_plane_by_plane(tmp_path, version):
    pytest.importorskip("zarr")
    write_image(tmp_path / "a.zarr", STACK, version)
    planes = list(read_planes(tmp_path / "a.zarr", channel="GFP"))
    assert [plane.label for plane in planes] == [
        f"t00{t}_z0{z}_c1" for t in range(2) for z in range(3)
    ]
    np.testing.assert_array_equal([p.frame for p in planes], STACK[:, 1].reshape(-1, 40, 50))
    assert {(plane.channel_name, plane.pixel_size_um) for plane in planes} == {("GFP", 0.5)}


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_the_fields_of_a_plate_are_positions(tmp_path, version):
    pytest.importorskip("zarr")
    write_plate(tmp_path / "p.zarr", version)
    planes = list(read_planes(tmp_path / "p.zarr"))
    assert [plane.position_name for plane in planes] == ["A/1/0", "A/1/1", "B/2/0", "B/2/1"]
    np.testing.assert_array_equal(planes[3].frame, STACK[1, 0, 0] + 1)
    (plane,) = read_planes(tmp_path / "p.zarr", position="B/2/0", channel=1)
    np.testing.assert_array_equal(plane.frame, STACK[1, 1, 0])


def test_segment_takes_an_ome_zarr_as_an_image(segment, tmp_path, states):
    pytest.importorskip("zarr")
    write_image(tmp_path / "folder" / "a.zarr", STACK, "0.4")
    for words in ("2 done", "2 skipped"):
        result = segment("--z", "max", paths=(tmp_path / "folder",))
        assert result.exit_code == ExitCode.DONE, result.output
        assert result.stdout.startswith(words)
    assert set(states(tmp_path / "out")) == {"a.zarr#t000_zmax_c0", "a.zarr#t001_zmax_c0"}


def test_damaged_zarrs_are_refused(tmp_path):
    pytest.importorskip("zarr")
    write_image(tmp_path / "a.zarr", STACK, "0.4")
    random = np.random.default_rng(0)
    files = [
        tmp_path / "a.zarr" / name
        for name in (".zattrs", "0/.zarray", "0/0/0/0/0/0", "0/0/0/0/0/1")
    ]
    refused = 0
    for turn in range(80):
        file = files[turn % len(files)]
        whole = file.read_bytes()
        data = bytearray(whole)
        if turn % 3:
            for place in random.integers(0, len(data), 3):
                data[place] = random.integers(0, 256)
        else:
            del data[random.integers(0, len(data)) :]
        file.write_bytes(bytes(data))
        try:
            list(read_planes(tmp_path / "a.zarr", time=0, z=0))
        except InvalidRequest:
            refused += 1
        file.write_bytes(whole)
    assert refused > 20


def test_a_part_outside_a_zarr_is_not_read(tmp_path):
    pytest.importorskip("zarr")
    write_image(tmp_path / "b.zarr", STACK, "0.4")
    write_group(tmp_path / "a.zarr", {"plate": {"wells": [{"path": "../b.zarr"}]}}, "0.4")
    with pytest.raises(UnreadableImage, match=r"without its part '\.\./b\.zarr'"):
        list(read_planes(tmp_path / "a.zarr"))


def test_a_zarr_in_a_search_is_one_image(tmp_path):
    write_image(tmp_path / "x" / "a.zarr", STACK[0, 0, 0], "0.4", AXES[-2:])
    (tmp_path / "x" / "a.zarr" / "thumb.png").write_bytes(b"no image")
    assert [given.key for given in find_inputs([str(tmp_path)], tmp_path / "out")] == ["x/a.zarr"]
    (given,) = find_inputs([str(tmp_path / "x" / "a.zarr")], tmp_path / "out")
    assert given.key == "a.zarr"


@pytest.mark.parametrize(
    ("name", "module", "told"),
    [
        ("a.zarr", "zarr", 'Install its reader with pip install "cytoserve[zarr]"'),
        ("a.nd2", "bioio_nd2", 'a Nikon ND2 file. Install its reader with pip install "cytoserve['),
        ("a.czi", "bioio_czi", "a Zeiss CZI file. Install its reader (GPL-3.0) with pip install"),
        ("a.LIF", "bioio_lif", 'pip install "cytoserve[lif]", or convert it to OME-TIFF.'),
        ("a.dv", "bioio", 'pip install "cytoserve[dv]"'),
        ("a.oir", "bioio", "an Olympus OIR file. Convert it to OME-TIFF, such as with Bio-Formats"),
    ],
)
def test_what_is_not_installed_is_named(tmp_path, monkeypatch, name, module, told):
    monkeypatch.setitem(sys.modules, module, None)
    if name.endswith(".zarr"):
        write_image(tmp_path / name, STACK[0, 0, 0], "0.4", AXES[-2:])
    else:
        (tmp_path / name).write_bytes(b"anything")
    with pytest.raises(UnreadableImage) as refusal:
        list(read_planes(tmp_path / name))
    assert str(refusal.value).startswith(f"{tmp_path / name}: ")
    assert told.removeprefix("an Olympus") in str(refusal.value)


@pytest.mark.parametrize("suffix", [*PLUGINS, *NOT_READ])
def test_a_damaged_file_of_a_vendor_is_refused(tmp_path, suffix):
    (tmp_path / f"a{suffix}").write_bytes(bytes(range(256)) * 9)
    with pytest.raises(UnreadableImage):
        list(read_planes(tmp_path / f"a{suffix}"))


def test_a_czi_is_read(tmp_path):
    pytest.importorskip("bioio_czi")
    czi = pytest.importorskip("pylibCZIrw.czi")
    with czi.create_czi(str(tmp_path / "a.czi")) as file:
        for t, c, z in np.ndindex(2, 2, 3):
            file.write(data=STACK[t, c, z][..., np.newaxis], plane={"T": t, "C": c, "Z": z})
        file.write_metadata("a", channel_names={0: "DAPI", 1: "GFP"}, scale_x=5e-7, scale_y=5e-7)
    planes = list(read_planes(tmp_path / "a.czi", channel=1))
    np.testing.assert_array_equal([p.frame for p in planes], STACK[:, 1].reshape(-1, 40, 50))
    assert planes[0].pixel_size_um == pytest.approx(0.5)


def test_a_delta_vision_file_is_read(tmp_path):
    pytest.importorskip("bioio_dv")
    mrc = pytest.importorskip("mrc")
    mrc.imsave(str(tmp_path / "a.dv"), STACK[0].transpose(1, 0, 2, 3).copy())
    planes = list(read_planes(tmp_path / "a.dv", channel="each"))
    expected = STACK[0].transpose(1, 0, 2, 3).reshape(-1, 40, 50)
    np.testing.assert_array_equal([plane.frame for plane in planes], expected)
