"""Splits by frame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from training.datasets.annotated import AnnotatedDataset
from training.datasets.splits import SplitSizes, random_split, split_by_frame

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


def test_scale_and_pixel_size_stay(make_dataset: MakeDataset) -> None:
    dataset = make_dataset(*[CELL] * 6)
    frames = tuple(replace(frame, scale=2.0) for frame in dataset.frames)
    dataset = replace(dataset, frames=frames, pixel_size_um=0.3)
    split = random_split(dataset, SplitSizes(3, 2, 1), seed=0)
    for part in (*split_by_frame(dataset, 0.5, seed=0), split.training, split.test):
        assert part.pixel_size_um == 0.3
        assert {frame.scale for frame in part.frames} == {2.0}


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


def parts(dataset: AnnotatedDataset, sizes: SplitSizes, seed: int) -> tuple[list[str], ...]:
    split = random_split(dataset, sizes, seed)
    return names(split.training), names(split.validation), names(split.test)


@pytest.mark.parametrize(
    ("frames", "sizes"),
    [
        pytest.param(30, SplitSizes(), id="the study's 15/5/10 of 30"),
        pytest.param(30, SplitSizes(5, 2, 3), id="some frames are left out"),
        pytest.param(3, SplitSizes(1, 1, 1), id="the smallest"),
    ],
)
def test_a_random_split_has_the_sizes_and_shares_no_frame(
    make_dataset: MakeDataset, frames: int, sizes: SplitSizes
) -> None:
    drawn = parts(make_dataset(*[CELL] * frames), sizes, seed=0)
    assert tuple(map(len, drawn)) == (sizes.training, sizes.validation, sizes.test)
    assert len({name for part in drawn for name in part}) == sizes.frames


def test_splits_are_drawn_anew_by_every_seed_and_alike_by_the_same(
    make_dataset: MakeDataset,
) -> None:
    dataset = make_dataset(*[CELL] * 10)
    backwards = AnnotatedDataset(dataset.class_names, dataset.frames[::-1])
    sizes = SplitSizes(5, 2, 3)
    draws = [parts(dataset, sizes, seed) for seed in range(10)]
    assert len({tuple(map(tuple, draw)) for draw in draws}) == 10
    assert len({name for draw in draws for name in draw[2]}) == 10  # each is tested on some day
    assert draws == [parts(backwards, sizes, seed) for seed in range(10)]


def test_a_split_larger_than_the_data_set_is_refused(make_dataset: MakeDataset) -> None:
    with pytest.raises(ValueError, match=r"15/5/10 .* takes 30 frames; the data set has 4"):
        random_split(make_dataset(*[CELL] * 4), SplitSizes(), seed=0)


def test_a_split_with_an_empty_part_is_refused() -> None:
    with pytest.raises(ValueError, match="5/0/2 has none for validation"):
        SplitSizes(5, 0, 2)
