"""The data sets of study S3, cut from small frames and from real ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import Result

from cytoserve.images import read_frame
from training.datasets.readers.brecahad import PointFrame, disc_mask, read_brecahad
from training.nuclei_tiles import (
    SETS,
    TileIndex,
    _windows,
    main,
    make_tiles,
    read_tile_index,
    set_folder,
    split_by_case,
)
from training.preprocessing.clean import clean_image

CLASSES = ("tumor", "non_tumor", "mitosis", "apoptosis", "tubule", "non_tubule")
HEIGHT, WIDTH = 128, 160
FRAMES = ("Case_1-01", "Case_1-02", "Case_1-03", "Case_2-01", "Case_3-01")


def write_frame(folder: Path, stem: str, nuclei: list[tuple[float, float]]) -> None:
    """A frame of noise with nuclei at (x, y), fractions of its size."""
    for name in ("images", "groundTruth"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    seed = sum(stem.encode())
    image = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    assert cv2.imwrite(str(folder / "images" / f"{stem}.png"), image)
    truth = {name: [] for name in CLASSES} | {"tumor": [{"x": x, "y": y} for x, y in nuclei]}
    (folder / "groundTruth" / f"{stem}.json").write_text(json.dumps(truth))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Five frames of three cases, a nucleus in the upper left quarter of every square."""
    for stem in FRAMES:
        write_frame(tmp_path / "data", stem, [(0.25, 0.25)])
    return tmp_path / "data"


@pytest.fixture
def frames(data: Path) -> tuple[PointFrame, ...]:
    return read_brecahad(data)


def read_mask(folder: Path, file: str) -> np.ndarray:
    mask = cv2.imread(str(folder / file), cv2.IMREAD_UNCHANGED)
    assert mask is not None
    assert set(np.unique(mask).tolist()) <= {0, 255}
    return mask


@pytest.mark.parametrize(
    ("name", "count", "shape"),
    [
        pytest.param("original", 1, (128, 160), id="original"),
        pytest.param("square", 1, (128, 128), id="square"),
        pytest.param("1/4", 4, (64, 64), id="quarters"),
        pytest.param("1/4 zero", 1, (64, 64), id="quarters zero"),
        pytest.param("128/64", 1, (128, 128), id="tiles as large as the square"),
    ],
)
def test_a_set_is_cut_from_the_cleaned_frame(
    frames: tuple[PointFrame, ...],
    tmp_path: Path,
    name: str,
    count: int,
    shape: tuple[int, int],
) -> None:
    index = make_tiles(frames, tmp_path / "out", name, radius=5, test_cases=["Case_2"])
    assert read_tile_index(tmp_path / "out") == index
    assert len(index.train) == 4 * count
    assert [tile.case for tile in index.test] == ["Case_2"] * count
    tile = index.test[0]  # the upper left one
    left = 0 if name == "original" else 16
    window = (slice(0, shape[0]), slice(left, left + shape[1]))
    image = read_frame(tmp_path / "out" / tile.image)
    frame = next(f for f in frames if f.case == "Case_2")
    assert np.array_equal(image, clean_image(frame.read())[window])
    expected = disc_mask(frame.nuclei(), (HEIGHT, WIDTH), 5)[window]
    assert np.array_equal(read_mask(tmp_path / "out", tile.mask) > 0, expected)


@pytest.mark.parametrize(
    ("name", "count"),
    [("1/4", 4), ("512/256", 9), ("256/128", 49), ("128/64", 225)],
)
def test_the_study_s_counts_of_tiles(shared_data: Path, name: str, count: int) -> None:
    frame = read_brecahad(shared_data / "brecahad")[0]
    windows = list(_windows(frame.height, frame.width, SETS[name]))
    assert len(windows) == len(set(map(str, windows))) == count
    rows, columns = zip(*windows, strict=True)
    assert (min(r.start for r in rows), max(r.stop for r in rows)) == (0, 1024)
    assert (min(c.start for c in columns), max(c.stop for c in columns)) == (168, 1192)
    steps = {b - a for a, b in pairwise(sorted({r.start for r in rows}))}
    assert steps == {SETS[name].step or 512}


def test_sets_are_the_studys() -> None:
    zero = {name for name in SETS if name.endswith(" zero")}
    assert set(SETS) - zero == {"original", "square", "1/4", "512/256", "256/128", "128/64"}
    assert zero == {"1/4 zero", "512/256 zero", "256/128 zero", "128/64 zero"}
    assert len(SETS) - len({"square"}) == 9


def test_an_earlier_runs_tiles_go_away(frames: tuple[PointFrame, ...], tmp_path: Path) -> None:
    make_tiles(frames, tmp_path / "out", "1/4", test_cases=["Case_2"])
    (tmp_path / "out" / "mine.txt").write_text("kept")
    index = make_tiles(frames, tmp_path / "out", "square", test_cases=["Case_2"])
    files = {f.relative_to(tmp_path / "out").as_posix() for f in (tmp_path / "out").rglob("*.*")}
    listed = {file for tile in index.train + index.test for file in (tile.image, tile.mask)}
    assert files == listed | {"tiles.json", "mine.txt"}


@pytest.mark.parametrize("seed", range(6))
def test_cases_are_never_divided_and_the_nearest_split_is_made(
    frames: tuple[PointFrame, ...], seed: int
) -> None:
    tested = split_by_case(frames, seed=seed)
    assert tested == split_by_case(tuple(reversed(frames)), seed=seed)
    count = sum(frame.case in tested for frame in frames)
    assert (count, len(tested)) in ((1, 1), (3, 1))  # Case_1, drawn first, has three of five


@pytest.mark.parametrize(
    ("cases", "message"),
    [
        pytest.param(["Case_9"], r"some of Case_1, Case_2, Case_3; given: Case_9", id="unknown"),
        pytest.param([], r"given: none", id="none"),
        pytest.param(["Case_1", "Case_2", "Case_3"], r"all 3 cases are named", id="all"),
    ],
)
def test_named_cases_are_checked(
    frames: tuple[PointFrame, ...], cases: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        split_by_case(frames, test_cases=cases)


def test_one_case_cannot_be_split(frames: tuple[PointFrame, ...]) -> None:
    with pytest.raises(ValueError, match=r"two cases or more; got 1 \(Case_1\)"):
        split_by_case(frames[:3])


def test_a_frame_smaller_than_a_tile_is_refused(
    frames: tuple[PointFrame, ...], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"160 x 128 pixels, a tile of '256/128' 256 x 256"):
        make_tiles(frames, tmp_path / "out", "256/128")
    assert not (tmp_path / "out").exists()


def test_a_side_without_a_nucleus_is_refused(data: Path, tmp_path: Path) -> None:
    write_frame(data, "Case_2-01", [])
    frames = read_brecahad(data)
    with pytest.raises(ValueError, match=r"set '1/4 zero' has no tile to test on"):
        make_tiles(frames, tmp_path / "out", "1/4 zero", test_cases=["Case_2"])
    assert not (tmp_path / "out" / "tiles.json").exists()
    assert len(make_tiles(frames, tmp_path / "out", "1/4", test_cases=["Case_2"]).test) == 4


def test_an_unknown_set_is_refused(frames: tuple[PointFrame, ...], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"one of original, square, .*; given: 64/32"):
        make_tiles(frames, tmp_path, "64/32")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, r"absent; make it with `python -m training\.nuclei_tiles`", id="none"),
        pytest.param("{}", r"damaged; cut the tiles again:\n  set_name: Field", id="empty"),
        pytest.param('{"set_name"', r"damaged.*Invalid JSON", id="cut off"),
    ],
)
def test_an_index_that_cannot_be_read(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "tiles.json").write_text(content)
    with pytest.raises(ValueError, match=r"tiles\.json is") as caught:
        read_tile_index(tmp_path)
    assert caught.match(f"(?s){message}")


def test_the_index_names_what_it_was_made_of(data: Path, tmp_path: Path) -> None:
    def make() -> TileIndex:
        return make_tiles(read_brecahad(data), tmp_path / "out", "square", test_cases=["Case_2"])

    before = make().data
    assert list(before) == [str(data)]
    write_frame(data, "Case_3-01", [(0.5, 0.5)])
    assert make().data != before


def test_the_command_makes_sets(data: Path, tmp_path: Path, run: Callable[..., Result]) -> None:
    out = tmp_path / "out"
    names = ["1/4", "1/4 zero"]
    chosen = [part for name in names for part in ("--set", name)]
    result = run(main, "--data", data, "--out", out, *chosen, "--test-case", "Case_1")
    assert "test: Case_1, 3 of 5 frames (60%" in result.output
    assert "1-4: 8 tiles to train on, 12 to test" in result.output
    assert [read_tile_index(set_folder(out, name)).set_name for name in names] == names


def test_a_case_without_nuclei_is_tested_on_too(
    data: Path, tmp_path: Path, run: Callable[..., Result]
) -> None:
    write_frame(data, "Case_3-01", [])
    sets, cases = ("--set", "1/4 zero", "--set", "1/4"), ("Case_2", "Case_3")
    tested = [part for case in cases for part in ("--test-case", case)]
    result = run(main, "--data", data, "--out", tmp_path / "out", *sets, *tested)
    assert "test: Case_2, Case_3, 2 of 5 frames (40%" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param([], "give --set", id="no set"),
        pytest.param(["--all", "--set", "1/4"], "give --set", id="both"),
        pytest.param(["--set", "64/32"], "'64/32' is not one of", id="unknown set"),
        pytest.param(["--set", "square", "--radius", "0"], "0.0 is not in the range", id="radius"),
    ],
)
def test_the_command_refuses(
    data: Path, run: Callable[..., Result], arguments: list[str], message: str
) -> None:
    result = run(main, "--data", data, "--out", data / "out", *arguments, code=2)
    assert message in result.output


def test_the_command_names_a_bad_annotation(data: Path, run: Callable[..., Result]) -> None:
    write_frame(data, "Case_2-01", [(0.5, 1.5)])
    result = run(main, "--data", data, "--out", data / "out", "--set", "square", code=2)
    assert "Case_2-01.json: tumor[0]: has its centre at (0.5, 1.5)" in result.output


def test_the_command_reports_what_cannot_be_cut(data: Path, run: Callable[..., Result]) -> None:
    result = run(main, "--data", data, "--out", data / "out", "--all", code=1)
    assert "take it out, or choose a set of smaller tiles" in result.output
