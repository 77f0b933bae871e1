from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import tifffile

from cytoserve import read_frame
from cytoserve.cli.exit_codes import ExitCode

STACK = np.random.default_rng(0).integers(0, 4096, (2, 3, 2, 60, 80)).astype(np.uint16)  # TZCYX


@pytest.fixture
def images(tmp_path):
    """An OME-TIFF of two times, three z and two channels, beside a plain image."""
    folder = tmp_path / "images"
    folder.mkdir()
    tifffile.imwrite(
        folder / "a.ome.tif",
        STACK,
        ome=True,
        metadata={"axes": "TZCYX", "PhysicalSizeX": 0.5, "Channel": {"Name": ["DAPI", "GFP"]}},
    )
    assert cv2.imwrite(str(folder / "b.png"), STACK[0, 0, 0])
    return folder


def record(tmp_path):
    return json.loads((tmp_path / "out" / "run.json").read_text("utf-8"))["files"]


def sent(triton):
    return [
        request.inputs["image"].reshape(60, 80)
        for request in triton.fake.requests
        if "image" in request.inputs
    ]


@pytest.mark.parametrize(
    ("arguments", "labels", "frames"),
    [
        pytest.param(
            (),
            [f"t00{t}_z0{z}_c0" for t in range(2) for z in range(3)],
            STACK[:, :, 0],
            id="defaults",
        ),
        pytest.param(
            ("--channel", "GFP", "--z", "max", "--time", 1),
            ["t001_zmax_c1"],
            STACK[1, :, 1].max(0),
            id="maximum",
        ),
        pytest.param(
            ("--channel", "GFP,0", "--z", "1", "--time", "0"),
            ["t000_z01_c1", "t000_z01_c0"],
            STACK[0, 1, ::-1],
            id="channels",
        ),
        pytest.param(
            ("--z", "0,2", "--time", "0-1", "--position", "0"),
            [f"t00{t}_z0{z}_c0" for t in range(2) for z in (0, 2)],
            STACK[:, [0, 2], 0],
            id="ranges",
        ),
    ],
)
def test_each_chosen_plane_has_results_and_a_record(
    segment, triton, images, tmp_path, arguments, labels, frames
):
    result = segment(*arguments, paths=(images / "a.ome.tif",))
    assert result.exit_code == ExitCode.DONE, result.output
    np.testing.assert_array_equal(np.stack(sent(triton)), frames.reshape(-1, 60, 80))
    files = record(tmp_path)
    assert set(files) == {f"a.ome.tif#{label}" for label in labels}
    for label in labels:
        entry = files[f"a.ome.tif#{label}"]
        assert f"a.ome_tif_{label}_labels.tif" in entry["outputs"]
        assert entry["image"] == {"height": 60, "width": 80, "pixel_size_um": 0.5}
        assert entry["plane"]["channel_name"] == ("GFP" if label.endswith("c1") else "DAPI")
        for name in entry["outputs"]:
            assert (tmp_path / "out" / name).is_file()
        read_frame(tmp_path / "out" / f"a.ome_tif_{label}_labels.tif")


def test_the_defaults_are_told_once(segment, images, tmp_path):
    (images / "c.ome.tif").write_bytes((images / "a.ome.tif").read_bytes())
    result = segment()
    assert result.exit_code == ExitCode.DONE
    told = [line for line in result.stderr.splitlines() if "is segmented" in line]
    assert told == [
        "a.ome.tif: 2 channels: DAPI is segmented; choose with --channel. 3 z planes: each is "
        "segmented; choose with --z, or take their maximum with --z max. 2 time points: each is "
        "segmented; choose with --time."
    ]
    assert "13 done" in result.stdout
    assert "plane" not in record(tmp_path)["b.png"]


def test_what_is_chosen_is_not_told(segment, images):
    result = segment("--channel", "each", "--z", "each", "--time", "each", paths=(images,))
    assert "is segmented" not in result.stderr


def test_a_rerun_resumes_plane_by_plane(segment, triton, images, tmp_path):
    assert segment("--time", 0).stdout.startswith("4 done")
    assert segment().stdout.startswith("3 done, 4 skipped")
    asked = len(sent(triton))
    assert segment().stdout.startswith("7 skipped")
    changed = STACK.copy()
    changed[1, 2, 0, 5, 5] += 1
    tifffile.imwrite(images / "a.ome.tif", changed, ome=True, metadata={"axes": "TZCYX"})
    assert segment().stdout.startswith("1 done, 6 skipped")
    assert len(sent(triton)) == asked + 1


def test_a_plane_that_fails_leaves_the_others(segment, images, tmp_path, states):
    tifffile.imwrite(
        images / "a.ome.tif", STACK[:, 0, 0], ome=True, compression="zlib", metadata={"axes": "TYX"}
    )
    with tifffile.TiffFile(images / "a.ome.tif") as file:
        start = file.pages[1].dataoffsets[0]
    data = bytearray((images / "a.ome.tif").read_bytes())
    data[start + 50 : start + 60] = bytes(10)
    (images / "a.ome.tif").write_bytes(bytes(data))
    result = segment()
    assert result.exit_code == ExitCode.SOME_FAILED
    assert states(tmp_path / "out") == {
        "a.ome.tif#t000": "done",
        "a.ome.tif#t001": "failed",
        "b.png": "done",
    }


def test_a_choice_that_a_file_has_not_fails_it_alone(segment, images, tmp_path, states):
    result = segment("--channel", "GFP", "--z", 0, "--time", 0)
    assert result.exit_code == ExitCode.SOME_FAILED
    assert "b.png: A channel is one that the file has: 0; given: 'GFP'" in result.stderr
    assert states(tmp_path / "out") == {"a.ome.tif#t000_z00_c1": "done", "b.png": "failed"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("--z", "top"),
        ("--z", "max,1"),
        ("--time", "max"),
        ("--time", "-1"),
        ("--channel", ""),
        ("--time", "1,,2"),
    ],
)
def test_wrong_choices_are_refused_before_anything_is_sent(segment, triton, arguments):
    result = segment(*arguments)
    assert result.exit_code == ExitCode.USAGE
    assert "given:" in result.stderr
    assert not triton.asked


def test_watch_does_each_plane(command, triton, images, tmp_path, states):
    arguments = ("--url", triton.url, "--settle", 0, "--poll", 0.01, "--until-idle", 0)
    run = lambda: command("watch", images, "--out", tmp_path / "out", "--z", "max", *arguments)  # noqa: E731
    result = run()
    assert result.exit_code == ExitCode.DONE, result.output
    assert set(states(tmp_path / "out")) == {
        "a.ome.tif#t000_zmax_c0",
        "a.ome.tif#t001_zmax_c0",
        "b.png",
    }
    assert "a.ome.tif#t001_zmax_c0: 3 cells" in result.stderr
    assert run().stdout.startswith("3 skipped")
