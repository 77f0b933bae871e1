"""Frames to train on and to validate on, and the sizes of their pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import cv2
import numpy as np
import pytest

from training.run.options import read_split


@pytest.fixture
def data(tmp_path: Path) -> Callable[[str], str]:
    """Write a data set of two frames of one cell each."""

    def write(name: str) -> str:
        for folder in ("images", "labels"):
            (tmp_path / name / folder).mkdir(parents=True)
        labels = np.zeros((40, 40), np.uint8)
        labels[10:30, 10:30] = 1
        for number in range(2):
            for folder in ("images", "labels"):
                cv2.imwrite(str(tmp_path / name / folder / f"{name}_{number}.png"), labels)
        return str(tmp_path / name)

    return write


SIZES = {
    "none": (1, 1, (), [1, 1], [1, 1]),
    "one for all": (2, 1, (0.5,), [1, 1, 1, 1], [1, 1]),
    "one for each": (2, 1, (0.5, 1.0, 2.0), [1, 1, 2, 2], [4, 4]),
    "one for each to train on": (2, 1, (0.5, 1.0), [1, 1, 2, 2], [1, 1]),
    "similar ones": (1, 1, (0.5, 0.52), [1, 1], [1, 1]),
}


@pytest.mark.parametrize(
    ("trained", "validated", "sizes", "train_scales", "kept_scales"), SIZES.values(), ids=SIZES
)
def test_frames_to_validate_on_are_brought_to_the_scale_of_the_others(
    data: Callable[[str], str],
    trained: int,
    validated: int,
    sizes: tuple[float, ...],
    train_scales: list[float],
    kept_scales: list[float],
) -> None:
    train, kept, hashes = read_split(
        [data(f"train_{i}") for i in range(trained)],
        [data(f"kept_{i}") for i in range(validated)],
        share=0.5,
        seed=0,
        pixel_sizes=sizes,
    )
    assert [frame.scale for frame in train.frames] == train_scales
    assert [frame.scale for frame in kept.frames] == kept_scales
    assert len(hashes) == trained + validated


def test_a_share_is_drawn_where_there_is_nothing_else_to_validate_on(
    data: Callable[[str], str],
) -> None:
    train, kept, _ = read_split([data("all")], [], share=0.5, seed=0, pixel_sizes=(0.5,))
    assert (len(train.frames), len(kept.frames)) == (1, 1)
    assert (train.pixel_size_um, kept.pixel_size_um) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("trained", "validated", "sizes"),
    [
        pytest.param(1, 0, (0.5, 1.0), id="too many, nothing to validate on"),
        pytest.param(3, 0, (0.5, 1.0), id="too few"),
        pytest.param(1, 2, (0.5, 1.0, 1.0, 1.0), id="too many to validate on"),
    ],
)
def test_a_wrong_number_of_pixel_sizes_is_refused(
    data: Callable[[str], str], trained: int, validated: int, sizes: tuple[float, ...]
) -> None:
    folders = [data(f"data_{i}") for i in range(trained + validated)]
    with pytest.raises(click.UsageError, match="--pixel-size is given once for all data sets"):
        read_split(folders[:trained], folders[trained:], share=0.5, seed=0, pixel_sizes=sizes)
