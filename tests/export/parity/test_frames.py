"""The frames that a chain is proven on: of every layout of training data, spread, or rendered."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest
import tifffile

from export.parity.frames import COUNT, MAX_PARITY_SIDE, all_frames, parity_frames
from training.checkpoint import Recipe

SIDE = 8


def write(file: Path, value: int = 0) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(file, np.full((SIDE, SIDE), value, np.uint16))
    return file


def trained_on(*data: Path | str) -> Recipe:
    return Recipe(
        architecture="yolo11n-seg",
        class_names=("cell",),
        settings={},
        data={str(name): "" for name in data},
        initialised_from="random",
        seed=0,
        metrics={},
        versions={},
        created="",
    )


def images_folder(folder: Path) -> Path:
    write(folder / "images" / "a.tif")
    return folder


def deeper_images(folder: Path) -> Path:
    write(folder / "images" / "train" / "a.tif")
    return folder


def crops(folder: Path) -> Path:
    write(folder / "a.tif")
    return folder


def one_coco_file(folder: Path) -> Path:
    write(folder / "images" / "a.tif")
    image = {"id": 1, "file_name": "a.tif", "height": SIDE, "width": SIDE}
    cell = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 5, 1, 5, 5]]}
    table = {
        "images": [image],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [cell],
    }
    (folder / "train.json").write_text(json.dumps(table))
    return folder / "train.json"


def cell_tracking(folder: Path) -> Path:
    write(folder / "01" / "a.tif").rename(folder / "01" / "t000.tif")
    write(folder / "01_GT" / "SEG" / "man_seg000.tif", value=1)
    return folder


@pytest.mark.parametrize(
    ("make", "name"),
    [
        pytest.param(images_folder, "a.tif", id="images/"),
        pytest.param(deeper_images, "a.tif", id="folders of images/"),
        pytest.param(crops, "a.tif", id="images in the folder itself"),
        pytest.param(one_coco_file, "a.tif", id="one COCO file"),
        pytest.param(cell_tracking, "t000.tif", id="Cell Tracking Challenge"),
    ],
)
def test_what_was_trained_on_is_found(
    make: Callable[[Path], Path], name: str, tmp_path: Path
) -> None:
    frames = parity_frames(None, trained_on(f"{make(tmp_path)}"))
    assert {file: frame.shape for file, frame in frames.items()} == {name: (SIDE, SIDE)}


def test_a_listing_is_no_part_of_the_folder(tmp_path: Path) -> None:
    assert list(parity_frames(None, trained_on(f"{images_folder(tmp_path)}@train.txt"))) == [
        "a.tif"
    ]


@pytest.mark.parametrize(
    "data", [pytest.param("gone", id="gone"), pytest.param("emptied", id="no data set any more")]
)
def test_frames_are_rendered_where_nothing_is_left(data: str, tmp_path: Path) -> None:
    (tmp_path / "emptied").mkdir()
    frames = parity_frames(None, trained_on(tmp_path / data))
    assert list(frames) == [f"rendered {seed}" for seed in range(COUNT)]


@pytest.mark.parametrize(
    ("count", "chosen"), [(1, [0]), (4, [0, 1, 2, 3]), (7, [0, 1, 3, 5]), (80, [0, 20, 40, 60])]
)
def test_they_are_spread_evenly(count: int, chosen: list[int], tmp_path: Path) -> None:
    for index in range(count):
        write(tmp_path / f"{index:02d}.tif", value=index)
    frames = parity_frames(tmp_path, trained_on())
    assert [int(frame[0, 0]) for frame in frames.values()] == chosen


@pytest.mark.parametrize("channels", [(), (3,)], ids=["grey", "RGB"])
def test_of_a_large_frame_the_middle_is_taken(channels: tuple[int, ...], tmp_path: Path) -> None:
    frame = np.zeros((MAX_PARITY_SIDE + 100, MAX_PARITY_SIDE - 5, *channels), np.uint8)
    frame[50:-50] = 7
    tifffile.imwrite(tmp_path / "a.tif", frame)
    [part] = parity_frames(tmp_path, trained_on()).values()
    assert part.shape == (MAX_PARITY_SIDE, MAX_PARITY_SIDE - 5, *channels)
    assert part.min() == 7


def test_floats_are_proven_on_as_the_server_gets_them(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.full((SIDE, SIDE), 0.5, np.float32))
    for frames in (parity_frames(tmp_path, trained_on()), all_frames(tmp_path, ())):
        assert (frames["a.tif"].dtype, frames["a.tif"][0, 0]) == (np.uint16, 32768)


@pytest.mark.parametrize(
    ("given", "remedy"),
    [pytest.param(True, False, id="given"), pytest.param(False, True, id="trained on")],
)
def test_a_damaged_frame_is_named(given: bool, remedy: bool, tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"II*")
    with pytest.raises(click.UsageError, match=r"a\.tif") as caught:
        parity_frames(tmp_path if given else None, trained_on(tmp_path))
    assert ("--frames" in caught.value.message) == remedy
