"""Annotated frames as windows for ultralytics."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from skimage import draw

from training.datasets.annotated import AnnotatedCell, AnnotatedDataset, AnnotatedFrame
from training.datasets.readers import read_annotated
from training.datasets.splits import split_by_frame
from training.preprocessing.cutting import PADDING_VALUE, NetworkTiles, padding_before, scaled_frame
from training.yolo.frames import BACKGROUND_MARGIN, WindowSettings, _starts, write_yolo_dataset

CELL = (10, 10, 20, 20)

MakeDataset = Callable[..., AnnotatedDataset]
Pixels = npt.NDArray[np.uint8]

SETTINGS = WindowSettings(
    window=640,
    samples_per_frame=None,
    windows_around_cells=0,
    min_visible=0.25,
    background_share=0.0,
    blank_share=0.0,
    network_scale=1.0,
)


def write(train: AnnotatedDataset, directory: Path, seed: int = 0, **changes: Any) -> list[Path]:
    """Windows of ``train`` (which is validated on as well): their label files."""
    write_yolo_dataset(train, train, directory, replace(SETTINGS, **changes), seed)
    labels = sorted((directory / "labels" / "train").iterdir())
    images = sorted((directory / "images" / "train").iterdir())
    assert [p.stem for p in labels] == [p.stem for p in images]
    return labels


def lines(label_file: Path) -> list[tuple[int, npt.NDArray[np.float64]]]:
    """``(class id, polygon [P, 2] in shares of the window)`` of each line."""
    rows = [line.split() for line in label_file.read_text().splitlines()]
    return [(int(row[0]), np.array(row[1:], float).reshape(-1, 2)) for row in rows]


def pixels(label_file: Path) -> Pixels:
    """The window of a label file, RGB."""
    images = label_file.parents[2] / "images" / label_file.parent.name
    return cv2.imread(str(images / f"{label_file.stem}.png"))[:, :, ::-1]


def scaled(frame: AnnotatedFrame, scale: float = 1.0) -> Pixels:
    """The whole frame as it is served at ``scale``, RGB."""
    image = frame.read()
    image = image[:, :, None] if image.ndim == 2 else image
    return scaled_frame(torch.from_numpy(image.astype(np.int32)), scale)[0].numpy()


def drawn(polygon: npt.NDArray[np.float64], shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The mask of a polygon in pixels of a frame."""
    mask = np.zeros(shape, bool)
    mask[draw.polygon(polygon[:, 1] - 0.5, polygon[:, 0] - 0.5, shape)] = True
    return mask


def of_frame(cell: AnnotatedCell, frame: AnnotatedFrame) -> npt.NDArray[np.bool_]:
    mask = np.zeros((frame.height, frame.width), bool)
    height, width = cell.mask.shape
    mask[cell.y : cell.y + height, cell.x : cell.x + width] = cell.mask
    return mask


def iou(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> float:
    return float((one & other).sum() / (one | other).sum())


@given(st.integers(1, 2000), st.sampled_from([64, 96, 320, 640]))
def test_windows_cover_the_frame_and_are_no_more_than_it_takes(content: int, window: int) -> None:
    starts = _starts(content, window)
    covered = {pixel for start in starts for pixel in range(start, start + window)}
    assert set(range(content)) <= covered
    assert len(starts) == math.ceil(content / window)
    if content >= window:
        assert covered <= set(range(content))
    else:
        assert starts == [-padding_before(content, window)]


@pytest.mark.parametrize("network_scale", [1.0, 0.5, 1.7])
@pytest.mark.parametrize("frame_scale", [1.0, 2.0])
def test_labels_are_the_annotated_cells_at_their_place(
    rendered: Path, tmp_path: Path, network_scale: float, frame_scale: float
) -> None:
    dataset = read_annotated(rendered)
    frames = tuple(replace(frame, scale=frame_scale) for frame in dataset.frames)
    files = write(replace(dataset, frames=frames), tmp_path, network_scale=network_scale)
    assert len(files) == len(frames)
    for frame, file in zip(frames, files, strict=True):
        shown = scaled(frame, network_scale * frame_scale)
        top, left = (padding_before(side, 640) for side in shown.shape[:2])
        height, width = shown.shape[:2]
        np.testing.assert_array_equal(pixels(file)[top : top + height, left : left + width], shown)
        found = lines(file)
        assert [class_id for class_id, _ in found] == [cell.class_id for cell in frame.cells]
        assert len(found) == 6
        for cell, (_, polygon) in zip(frame.cells, found, strict=True):
            on_frame = (polygon * 640 - (left, top)) / (width / frame.width, height / frame.height)
            mask = drawn(on_frame, (frame.height, frame.width))
            # Outlines are those of masks in network pixels, which are coarse at half the scale.
            assert iou(mask, of_frame(cell, frame)) >= (0.8 if len(shown) < frame.height else 0.9)


def test_labels_of_a_large_frame_lie_in_the_windows_that_show_them(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    """Cells stand out from their frame, so that every label is compared with what is shown."""
    boxes = [(20, 30, 24, 18), (90, 100, 20, 30), (55, 140, 30, 22), (130, 10, 16, 40)]
    dataset = make_dataset(boxes, shape=(160, 200))
    files = write(dataset, tmp_path / "windows", window=64, min_visible=0.01)
    assert len(files) == 3 * 4
    for file in files:
        bright = pixels(file)[:, :, 0] > 160  # cells are 100 of 140 grey levels brighter
        labelled = np.zeros((64, 64), bool)
        for _, polygon in lines(file):
            labelled |= drawn(polygon * 64, (64, 64))
        assert np.count_nonzero(bright ^ labelled) <= 0.1 * max(np.count_nonzero(bright), 40)
    assert sum(len(lines(file)) for file in files) >= len(boxes)


def test_a_small_frame_is_shown_as_it_is_served(rendered: Path, tmp_path: Path) -> None:
    dataset = read_annotated(rendered)
    file = write(dataset, tmp_path)[0]
    camera = torch.from_numpy(dataset.frames[0].read().astype(np.int32))[:, :, None]
    tiles = NetworkTiles()(camera, torch.tensor([1.0]), torch.tensor([0.0]))[0]
    np.testing.assert_array_equal(pixels(file), tiles[0].permute(1, 2, 0).numpy())


def test_windows_of_a_large_frame_are_parts_of_it(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    dataset = make_dataset([CELL], shape=(130, 64))
    files = write(dataset, tmp_path / "windows", window=64)
    whole = scaled(dataset.frames[0])
    assert len(files) == 3
    for file, top in zip(files, (0, 33, 66), strict=True):
        np.testing.assert_array_equal(pixels(file), whole[top : top + 64])


def test_colours_are_written_in_the_order_that_ultralytics_reads(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    dataset = make_dataset([CELL], shape=(64, 64, 3))
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, :, 2] = 200  # OpenCV writes BGR: this is red
    image[0:10, 0:10] = 255
    cv2.imwrite(str(dataset.frames[0].path), image)
    [file] = write(dataset, tmp_path / "windows", window=64)
    red, _, blue = pixels(file)[50, 50]
    assert red > 150
    assert blue == 0


@pytest.mark.parametrize(
    ("min_visible", "labelled"),
    [pytest.param(0.15, 2, id="either side"), pytest.param(0.5, 1, id="the larger part")],
)
def test_a_cell_cut_by_a_window_is_labelled_where_enough_of_it_is_visible(
    make_dataset: MakeDataset, tmp_path: Path, min_visible: float, labelled: int
) -> None:
    # Two windows side by side, cut at column 64 of the frame; a quarter of the cell lies left.
    dataset = make_dataset([(10, 59, 20, 20)], shape=(50, 128))
    files = write(dataset, tmp_path / "windows", window=64, min_visible=min_visible)
    assert len(files) == 2
    found = [polygon for file in files for _, polygon in lines(file)]
    assert len(found) == labelled
    assert all(polygon.min() >= 0 and polygon.max() <= 1 for polygon in found)
    assert found[-1][:, 0].min() == 0  # cut at the right window's left edge


def test_a_frame_without_cells_gives_windows_with_empty_label_files(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    files = write(make_dataset([], [CELL]), tmp_path / "windows")
    assert [len(lines(file)) for file in files] == [0, 1]


def test_the_seed_draws_windows(rendered: Path, tmp_path: Path) -> None:
    dataset = read_annotated(rendered)

    def drawn_by(seed: int, name: str) -> list[tuple[str, bytes]]:
        files = write(
            dataset,
            tmp_path / name,
            seed=seed,
            window=64,
            samples_per_frame=2,
            windows_around_cells=1,
            background_share=0.5,
            blank_share=0.2,
        )
        covering = [f for f in files if "background" not in f.stem and "blank" not in f.stem]
        assert len(covering) == 3 * len(dataset.frames)
        return [(file.read_text(), pixels(file).tobytes()) for file in files]

    assert drawn_by(1, "first") == drawn_by(1, "second")
    assert drawn_by(1, "first") != drawn_by(2, "third")


def test_windows_around_cells_hold_a_cell_each(make_dataset: MakeDataset, tmp_path: Path) -> None:
    lone = (600, 20, 20, 20)  # at the frame's edge
    dataset = make_dataset([lone], [CELL, lone], [], shape=(640, 640))
    options = {"window": 64, "samples_per_frame": 1, "min_visible": 0.1, "seed": 3}
    files = write(dataset, tmp_path / "around", **options, windows_around_cells=12)
    assert len(files) == 3 + 2 * 12
    assert len({file.read_text() for file in files}) > 12  # the cell is not always at one place
    held = sum(bool(lines(file)) for file in files)
    assert held >= 2 * 12
    assert sum(bool(lines(file)) for file in write(dataset, tmp_path / "others", **options)) < 3


def test_windows_around_cells_of_a_small_frame_are_padded_alike(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    dataset = make_dataset([CELL], shape=(50, 40))
    files = write(dataset, tmp_path / "windows", window=64, windows_around_cells=3)
    assert len(files) == 4
    assert len({(file.read_text(), pixels(file).tobytes()) for file in files}) == 1


def background(files: list[Path]) -> list[Path]:
    return [file for file in files if "background" in file.stem]


@pytest.mark.parametrize("network_scale", [1.0, 0.7])
def test_background_windows_keep_away_from_cells(
    make_dataset: MakeDataset, tmp_path: Path, network_scale: float
) -> None:
    boxes = [(y, x, 30, 30) for y in (20, 300, 380) for x in (40, 200, 330)]
    dataset = make_dataset(boxes, shape=(450, 430))
    files = write(
        dataset,
        tmp_path / "windows",
        window=64,
        samples_per_frame=20,
        background_share=1.0,
        network_scale=network_scale,
    )
    whole = scaled(dataset.frames[0], network_scale)
    cells = np.zeros(whole.shape[:2], bool)
    for y, x, height, width in np.array(boxes) * network_scale:
        cells[int(y) : math.ceil(y + height), int(x) : math.ceil(x + width)] = True
    assert len(background(files)) == 20
    for file in background(files):
        assert lines(file) == []
        shown = pixels(file)
        differs = cv2.matchTemplate(whole[:, :, 0], shown[:, :, 0].copy(), cv2.TM_SQDIFF)
        top, left = np.unravel_index(differs.argmin(), differs.shape)
        np.testing.assert_array_equal(whole[top : top + 64, left : left + 64], shown)
        keeps = BACKGROUND_MARGIN - 1  # a cell's edge is rounded to a pixel
        rows = slice(max(0, top - keeps), top + 64 + keeps)
        assert not cells[rows, max(0, left - keeps) : left + 64 + keeps].any()


def test_where_cells_leave_no_room_background_is_a_padded_part(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    boxes = [(y, x, 20, 20) for y in range(10, 200, 65) for x in range(10, 200, 65)]
    dataset = make_dataset(boxes, shape=(220, 220))
    files = write(dataset, tmp_path / "windows", window=128, background_share=1.0)
    assert len(background(files)) == 4
    for file in background(files):
        shown = (pixels(file) != PADDING_VALUE).any(axis=2)
        rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
        assert (len(rows), len(columns)) == (32, 32)
        assert (rows[0], columns[0]) == (48, 48)


def test_a_frame_full_of_cells_gives_no_background(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    dataset = make_dataset([(0, 0, 100, 100)], shape=(100, 100))
    files = write(dataset, tmp_path / "windows", window=64, background_share=1.0)
    assert background(files) == []


def test_a_share_of_a_background_window_is_a_chance(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    dataset = make_dataset(*[[CELL]] * 40, shape=(100, 100))
    files = write(dataset, tmp_path / "windows", window=64, background_share=0.1)
    assert 8 <= len(background(files)) <= 24  # of 40 frames with four windows each


@pytest.mark.parametrize("shape", [(64, 64), (64, 64, 3)], ids=["grey", "RGB"])
def test_blank_windows_are_a_share_of_all(
    make_dataset: MakeDataset, tmp_path: Path, shape: tuple[int, ...]
) -> None:
    dataset = make_dataset(*[[CELL]] * 20, shape=shape)
    files = write(dataset, tmp_path / "windows", window=64, blank_share=0.5)
    blank = [file for file in files if file.stem.startswith("blank_")]
    assert len(files) == 20 + len(blank) == 20 + 10
    assert all(lines(file) == [] for file in blank)
    grey = [bool((np.ptp(pixels(file), axis=2) == 0).all()) for file in blank]
    assert all(grey) if len(shape) == 2 else not all(grey)
    padded = [bool((pixels(file)[0] == PADDING_VALUE).all()) for file in blank]
    assert 0 < sum(padded) < 10  # some show the edges of their frame


def test_validation_has_windows_of_its_own_frames(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    dataset = make_dataset([CELL], [CELL], [CELL])
    train, validation = dataset.subset(["frame_0", "frame_2"]), dataset.subset(["frame_1"])
    write_yolo_dataset(train, validation, tmp_path / "windows", SETTINGS, 0)
    names = {
        split: sorted(path.stem for path in (tmp_path / "windows" / "images" / split).iterdir())
        for split in ("train", "val")
    }
    assert names == {"train": ["frame_0_00", "frame_2_00"], "val": ["frame_1_00"]}


def test_windows_of_an_earlier_run_go_away(make_dataset: MakeDataset, tmp_path: Path) -> None:
    dataset = make_dataset([CELL])
    assert len(write(dataset, tmp_path / "windows", window=64)) == 4
    assert len(write(dataset, tmp_path / "windows")) == 1


def test_data_yaml_names_the_classes(make_dataset: MakeDataset, tmp_path: Path) -> None:
    write(make_dataset([CELL], class_names=("round", "spread")), tmp_path / "windows")
    data = yaml.safe_load((tmp_path / "windows" / "data.yaml").read_text())
    assert data["names"] == {0: "round", 1: "spread"}


def test_real_frames(shared_data: Path, tmp_path: Path) -> None:
    dataset = read_annotated(shared_data / "bccd")
    part = dataset.subset([frame.path.stem for frame in dataset.frames[:4]])
    train, validation = split_by_frame(part, 0.25, seed=0)
    settings = replace(SETTINGS, window=320)
    write_yolo_dataset(train, validation, tmp_path, settings, seed=0)
    # 640 x 480 pixels: two by two windows of 320.
    assert len(list((tmp_path / "images" / "train").iterdir())) == 12
    assert len(list((tmp_path / "images" / "val").iterdir())) == 4
    found = [line for f in (tmp_path / "labels").rglob("*.txt") for line in lines(f)]
    cells = sum(len(frame.cells) for frame in part.frames)
    assert cells <= len(found) <= 4 * cells
    for file in (tmp_path / "labels" / "train").iterdir():
        assert not (pixels(file) == PADDING_VALUE).all(axis=2).all(axis=1).any()  # no padding
