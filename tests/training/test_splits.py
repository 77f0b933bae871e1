"""Splits by frame."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from training.annotated import AnnotatedDataset
from training.splits import split_by_frame

CELL = [(10, 10, 20, 20)]

MakeDataset = Callable[..., AnnotatedDataset]


def names(dataset: AnnotatedDataset) -> list[str]:
    return [frame.path.stem for frame in dataset.frames]


@pytest.mark.parametrize(
    ("frames", "share", "validation"),
    [
        pytest.param(10, 0.2, 2, id="a share"),
        pytest.param(3, 0.01, 1, id="one at least"),
        pytest.param(3, 0.99, 2, id="one is left to train on"),
    ],
)
def test_whole_frames_stand_on_one_side(
    make_dataset: MakeDataset, frames: int, share: float, validation: int
) -> None:
    dataset = make_dataset(*[CELL] * frames)
    training, drawn = split_by_frame(dataset, share, seed=3)
    assert len(drawn.frames) == validation
    assert sorted(names(training) + names(drawn)) == sorted(names(dataset))


def test_the_seed_draws(make_dataset: MakeDataset) -> None:
    dataset = make_dataset(*[CELL] * 12)
    draws = [tuple(names(split_by_frame(dataset, 0.25, seed)[1])) for seed in range(8)]
    assert len(set(draws)) > 1
    assert draws == [tuple(names(split_by_frame(dataset, 0.25, seed)[1])) for seed in range(8)]


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        pytest.param([CELL], "two frames or more; got 1", id="one frame"),
        pytest.param([[], [], []], "none of the 3 frames has a cell", id="no cell"),
        pytest.param([[], CELL], "no cell in 1 of 2 frames.*another --seed", id="one-sided"),
    ],
)
def test_what_cannot_be_split_is_refused(
    make_dataset: MakeDataset, frames: list[list[tuple[int, ...]]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        split_by_frame(make_dataset(*frames), 0.5, seed=0)
