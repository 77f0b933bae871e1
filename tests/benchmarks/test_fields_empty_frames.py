"""The list of empty frames, and windows of background that keep clear of cells."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from benchmarks.fields.empty_frames import (
    COUNT,
    KINDS,
    MIN_SIDE,
    NOT_EMPTY,
    SIZES,
    SOURCES,
    WINDOW,
    background_windows,
    empty_frames,
)
from benchmarks.fields.windows import BLOCK, Rectangle, largest_rectangles
from training.datasets.annotated import AnnotatedDataset
from training.datasets.readers import read_annotated
from training.rendered import RenderSettings, render_dataset

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"


@pytest.fixture(scope="module")
def frames():
    """Each kind often enough to meet most of its values."""
    return list(empty_frames(seed=0, count=8 * len(KINDS)))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_made_in_several_sizes(frames, kind):
    made = [frame.image for frame in frames if frame.kind == kind]
    assert len(made) == 8
    assert {image.shape[:2] for image in made} == set(SIZES)
    assert {image.dtype for image in made} <= {np.dtype(np.uint8), np.dtype(np.uint16)}
    assert {image.shape[2:] for image in made} <= {(), (3,)}


def test_frames_differ_and_have_names_of_their_own(frames):
    assert len({frame.name for frame in frames}) == len(frames)
    assert len({frame.image.tobytes() for frame in frames}) == len(frames)


@pytest.mark.parametrize(
    ("kind", "least", "most"),
    [
        pytest.param("constant", 0, 0, id="constant"),
        pytest.param("read noise", 0, 25, id="read noise"),
        pytest.param("defocused debris", 1, 1500, id="defocused debris"),
    ],
)
def test_noise_is_of_the_kind(frames, kind, least, most):
    for frame in frames:
        if frame.kind == kind:
            assert least <= frame.image.std() <= most, frame.name


def test_the_same_seed_gives_the_same_frames_and_another_others(frames):
    again = list(islice(empty_frames(0, count=COUNT), len(KINDS)))
    others = list(islice(empty_frames(1, count=COUNT), len(KINDS)))
    for frame, same, other in zip(frames, again, others, strict=False):
        np.testing.assert_array_equal(frame.image, same.image)
        assert frame.name == same.name
        if frame.kind != "constant":
            assert frame.image.tobytes() != other.image.tobytes()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with one of the sources, rendered; a third of its cells are not annotated."""
    folder = tmp_path_factory.mktemp("data")
    settings = RenderSettings(height=400, width=500, cells=9, mean_diameter=40, debris=0)
    render_dataset(folder / "t98g", frames=4, settings=settings, seed=3)
    return folder


@pytest.mark.parametrize(
    ("count", "windows"),
    [
        pytest.param(20, 6, id="as many windows as are wanted"),
        pytest.param(200, 8, id="no more windows than two per frame"),
    ],
)
def test_windows_are_part_of_the_list(data, count, windows, monkeypatch):
    for kind in KINDS:  # what they make does not matter here
        monkeypatch.setitem(KINDS, kind, lambda *_: ("", np.zeros((8, 8), np.uint8)))
    kinds = Counter(frame.kind for frame in empty_frames(0, data, count))
    assert kinds.total() == count
    assert kinds[WINDOW] == windows
    made = [kinds[kind] for kind in KINDS]
    assert max(made) - min(made) <= 1


def test_a_folder_without_sources_gives_no_window(tmp_path):
    assert all(frame.kind != WINDOW for frame in empty_frames(0, tmp_path, 7))


def without_a_third(dataset: AnnotatedDataset) -> AnnotatedDataset:
    frames = [
        replace(frame, cells=frame.cells[::3] + frame.cells[1::3]) for frame in dataset.frames
    ]
    return replace(dataset, frames=tuple(frames))


def test_windows_keep_away_from_cells_annotated_or_not(data):
    truth = read_annotated(data / "t98g")
    taken = {}
    for frame in truth.frames:
        mask = np.zeros((frame.height, frame.width), bool)
        for cell in frame.cells:
            height, width = cell.mask.shape
            mask[cell.y : cell.y + height, cell.x : cell.x + width] |= cell.mask
        taken[frame.name] = mask
    windows = list(background_windows(without_a_third(truth), "t98g"))
    assert len(windows) >= 4
    for window in windows:
        _, _, name, place = window.name.split(", ", 3)
        width, height, x, y = map(int, re.findall(r"\d+", place))
        assert window.image.shape == (height, width)
        assert min(height, width) >= MIN_SIDE
        assert not taken[name][y : y + height, x : x + width].any()


def test_frames_known_to_show_cells_are_left_out(data):
    dataset = read_annotated(data / "t98g")
    first = dataset.frames[0].name
    windows = background_windows(dataset, "t98g", not_empty={first})
    assert all(f", {first}, " not in window.name for window in windows)


def drawn(*lines: str) -> np.ndarray:
    """Blocks drawn as text, ``.`` free, each of `BLOCK` pixels a side."""
    blocks = np.array([[place == "." for place in line] for line in lines])
    return np.kron(blocks, np.ones((BLOCK, BLOCK), bool))


def of_blocks(x: int, y: int, width: int, height: int) -> Rectangle:
    return Rectangle(*(BLOCK * side for side in (x, y, width, height)))


@pytest.mark.parametrize(
    ("free", "least", "expected"),
    [
        pytest.param(drawn("....", "...."), 2, [of_blocks(0, 0, 4, 2)], id="all free"),
        pytest.param(drawn("####", "####"), 1, [], id="none free"),
        pytest.param(
            drawn(".#..", ".#..", "...."),
            *(2, [of_blocks(2, 0, 2, 3)]),
            id="the largest that is wide enough",
        ),
        pytest.param(
            drawn(".#..", ".#..", "...."),
            *(1, [of_blocks(2, 0, 2, 3), of_blocks(0, 0, 1, 3), of_blocks(1, 2, 1, 1)]),
            id="one after the other, none twice",
        ),
        pytest.param(
            drawn("......", "..##..", "..##..", "......"),
            *(2, [of_blocks(0, 0, 2, 4), of_blocks(4, 0, 2, 4)]),
            id="on both sides",
        ),
        pytest.param(drawn("......", "......"), 3, [], id="too flat"),
        pytest.param(
            np.pad(drawn("..", ".."), ((0, BLOCK - 1), (0, 3)), constant_values=True),
            *(1, [of_blocks(0, 0, 2, 2)]),
            id="what is no whole block is not looked at",
        ),
    ],
)
def test_largest_rectangles(free, least, expected):
    assert largest_rectangles(free, least * BLOCK, most=5) == expected


def test_largest_rectangles_are_as_large_as_trying_all_finds():
    rng = np.random.default_rng(0)
    for _ in range(20):
        blocks = rng.random((7, 8)) < 0.75
        areas = [
            (bottom - top) * (right - left)
            for top in range(7)
            for bottom in range(top + 2, 8)
            for left in range(8)
            for right in range(left + 2, 9)
            if blocks[top:bottom, left:right].all()
        ]
        found = largest_rectangles(np.kron(blocks, np.ones((BLOCK, BLOCK), bool)), 2 * BLOCK, 1)
        assert [rectangle.area for rectangle in found] == [
            BLOCK**2 * area for area in sorted(areas)[-1:]
        ]


@pytest.mark.skipif(not DATA.is_dir(), reason="the real images of ../shared/data are not here")
@pytest.mark.parametrize("source", SOURCES)
def test_real_images_have_background(source):
    dataset = read_annotated(DATA / source)
    assert NOT_EMPTY[source] <= {frame.name for frame in dataset.frames}
    few = dataset.subset([frame.name for frame in dataset.frames[:6]])
    for window in background_windows(few, source, NOT_EMPTY[source]):
        assert min(window.image.shape[:2]) >= MIN_SIDE
        assert window.name.startswith(f"{WINDOW}, {source}, ")
