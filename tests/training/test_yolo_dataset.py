"""Annotated frames as windows for ultralytics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from skimage import draw

from training.annotated import AnnotatedDataset
from training.letterbox import PADDING_VALUE, PrepareFrame
from training.readers import read_annotated
from training.splits import split_by_frame
from training.yolo_dataset import _starts, write_yolo_dataset

CELL = (10, 10, 20, 20)


def write(train: AnnotatedDataset, directory: Path, **changes: Any) -> list[Path]:
    """Windows of ``train`` (which is validated on as well): their label files."""
    options: dict[str, Any] = {
        "window": 640,
        "windows_per_frame": None,
        "windows_around_cells": 0,
        "min_visible": 0.25,
        "seed": 0,
    }
    write_yolo_dataset(train, train, directory, **options | changes)
    labels = sorted((directory / "labels" / "train").iterdir())
    images = sorted((directory / "images" / "train").iterdir())
    assert [p.stem for p in labels] == [p.stem for p in images]
    return labels


def lines(label_file: Path) -> list[tuple[int, np.ndarray]]:
    """``(class id, polygon [P, 2] in shares of the window)`` of each line."""
    rows = [line.split() for line in label_file.read_text().splitlines()]
    return [(int(row[0]), np.array(row[1:], float).reshape(-1, 2)) for row in rows]


@given(st.integers(1, 640), st.floats(0, 1), st.sampled_from([64, 96, 320, 640]))
def test_windows_cover_the_content_and_are_no_more_than_it_takes(
    content: int, share: float, window: int
) -> None:
    padding = round((640 - content) * share)
    starts = _starts(content, padding, window)
    covered = {pixel for start in starts for pixel in range(start, start + window)}
    assert set(range(padding, padding + content)) <= covered <= set(range(640))
    assert len(starts) == -(-content // window)


def test_polygons_are_the_annotated_cells(rendered: Path, tmp_path: Path) -> None:
    dataset = read_annotated(rendered)
    files = write(dataset, tmp_path)
    assert len(files) == len(dataset.frames)
    for frame, file in zip(dataset.frames, files, strict=True):
        assert len(frame.cells) == 6
        image = torch.from_numpy(frame.read().astype(np.int32))[:, :, None]
        scale_x, scale_y, pad_x, pad_y = PrepareFrame()(image)[1][:4].tolist()
        found = lines(file)
        assert [class_id for class_id, _ in found] == [cell.class_id for cell in frame.cells]
        for cell, (_, polygon) in zip(frame.cells, found, strict=True):
            polygon = (polygon * 640 - (pad_x, pad_y)) / (scale_x, scale_y)
            expected = np.zeros((frame.height, frame.width), bool)
            height, width = cell.mask.shape
            expected[cell.y : cell.y + height, cell.x : cell.x + width] = cell.mask
            mask = np.zeros_like(expected)
            mask[draw.polygon(polygon[:, 1] - 0.5, polygon[:, 0] - 0.5, mask.shape)] = True
            assert (mask & expected).sum() / (mask | expected).sum() >= 0.9


def test_windows_show_what_is_served(rendered: Path, tmp_path: Path) -> None:
    dataset = read_annotated(rendered)
    write(dataset, tmp_path)
    frame = dataset.frames[0]
    prepared = PrepareFrame()(torch.from_numpy(frame.read().astype(np.int32))[:, :, None])[0]
    window = cv2.imread(str(tmp_path / "images" / "train" / f"{frame.path.stem}_00.png"))
    assert np.array_equal(window[:, :, ::-1], prepared[0].permute(1, 2, 0).numpy())


def test_colours_are_written_in_the_order_that_ultralytics_reads(
    make_dataset: Callable[..., AnnotatedDataset], tmp_path: Path
) -> None:
    dataset = make_dataset([CELL], shape=(64, 64, 3))
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, :, 2] = 200  # OpenCV writes BGR: this is red
    image[0:10, 0:10] = 255
    cv2.imwrite(str(dataset.frames[0].path), image)
    write(dataset, tmp_path / "windows")
    window = cv2.imread(str(tmp_path / "windows" / "images" / "train" / "frame_0_00.png"))
    blue, _, red = window[400, 400]
    assert red > 150
    assert blue == 0


@pytest.mark.parametrize(
    ("min_visible", "labelled"),
    [pytest.param(0.15, 2, id="either side"), pytest.param(0.5, 1, id="the larger part")],
)
def test_a_cell_cut_by_a_window_is_labelled_where_enough_of_it_is_visible(
    make_dataset: Callable[..., AnnotatedDataset],
    tmp_path: Path,
    min_visible: float,
    labelled: int,
) -> None:
    # Two windows side by side, cut at column 50 of the frame; a quarter of the cell lies left.
    dataset = make_dataset([(10, 45, 20, 20)], shape=(50, 100))
    files = write(dataset, tmp_path / "windows", window=320, min_visible=min_visible)
    assert len(files) == 2
    found = [polygon for file in files for _, polygon in lines(file)]
    assert len(found) == labelled
    assert all(polygon.min() >= 0 and polygon.max() <= 1 for polygon in found)
    assert found[-1][:, 0].min() == 0  # cut at the right window's left edge


def test_a_frame_without_cells_gives_windows_with_empty_label_files(
    make_dataset: Callable[..., AnnotatedDataset], tmp_path: Path
) -> None:
    files = write(make_dataset([], [CELL]), tmp_path / "windows")
    assert [len(lines(file)) for file in files] == [0, 1]


def test_the_seed_draws_windows(rendered: Path, tmp_path: Path) -> None:
    dataset = read_annotated(rendered)

    def draw(seed: int, name: str) -> list[str]:
        files = write(dataset, tmp_path / name, window=64, windows_per_frame=3, seed=seed)
        assert len(files) == 3 * len(dataset.frames)
        return [file.read_text() for file in files]

    assert draw(1, "first") == draw(1, "second")
    assert draw(1, "first") != draw(2, "third")


def test_windows_around_cells_hold_a_cell_each(
    make_dataset: Callable[..., AnnotatedDataset], tmp_path: Path
) -> None:
    lone = (600, 20, 20, 20)  # at the frame's edge
    dataset = make_dataset([lone], [CELL, lone], [], shape=(640, 640))
    options = {"window": 64, "windows_per_frame": 1, "min_visible": 0.1, "seed": 3}
    files = write(dataset, tmp_path / "around", **options, windows_around_cells=12)
    assert len(files) == 3 + 2 * 12
    assert len({file.read_text() for file in files}) > 12  # the cell is not always at one place
    held = sum(bool(lines(file)) for file in files)
    assert held >= 2 * 12
    assert sum(bool(lines(file)) for file in write(dataset, tmp_path / "others", **options)) < 3


def test_windows_of_an_earlier_run_go_away(
    make_dataset: Callable[..., AnnotatedDataset], tmp_path: Path
) -> None:
    dataset = make_dataset([CELL])
    write(dataset, tmp_path / "windows", window=64)
    assert len(write(dataset, tmp_path / "windows")) == 1


def test_data_yaml_names_the_classes(
    make_dataset: Callable[..., AnnotatedDataset], tmp_path: Path
) -> None:
    write(make_dataset([CELL], class_names=("round", "spread")), tmp_path / "windows")
    data = yaml.safe_load((tmp_path / "windows" / "data.yaml").read_text())
    assert data["names"] == {0: "round", 1: "spread"}


def test_real_frames(shared_data: Path, tmp_path: Path) -> None:
    dataset = read_annotated(shared_data / "bccd")
    part = dataset.subset([frame.path.stem for frame in dataset.frames[:4]])
    train, validation = split_by_frame(part, 0.25, seed=0)
    write_yolo_dataset(
        train,
        validation,
        tmp_path,
        window=320,
        windows_per_frame=None,
        windows_around_cells=0,
        min_visible=0.25,
        seed=0,
    )
    # 640 x 480 pixels: two by two windows of 320.
    assert len(list((tmp_path / "images" / "train").iterdir())) == 12
    assert len(list((tmp_path / "images" / "val").iterdir())) == 4
    found = [line for f in (tmp_path / "labels").rglob("*.txt") for line in lines(f)]
    cells = sum(len(frame.cells) for frame in part.frames)
    assert cells <= len(found) <= 4 * cells
    for file in (tmp_path / "images" / "train").iterdir():
        assert (cv2.imread(str(file)) == PADDING_VALUE).all(axis=2).mean() < 0.3
