"""Clean stained tissue and cut it into tiles: the data sets of study S3, under its names.

\b
    python -m training.nuclei_tiles --data data/BreCaHAD --out runs/tiles --set 256/128
    python -m training.nuclei_tiles --data data/BreCaHAD --out runs/tiles --all

A frame is cleaned as a whole, then cut:

\b
    original        the whole frame
    square          the largest centred square, 1024 x 1024 of a frame of 1360 x 1024
    1/4             the square's 4 quarters
    512/256         tiles of 512 pixels, step 256: 9 of that square
    256/128         tiles of 256 pixels, step 128: 49
    128/64          tiles of 128 pixels, step 64: 225
    ... zero        1/4, 512/256, 256/128 or 128/64 without the tiles that hold no nucleus

The study's table counts nine: `original` and the last four with and without "zero". `square`, which
they are cut from, is the tenth that --all makes. The square is cropped, not rescaled: the study
does not say how its images were made square, and a nucleus must keep its shape.

Every set gets its own folder below OUT: PNG tiles, masks of discs around the centres (0 and 255),
and `tiles.json`, which `training.unet` reads. Frames are split by case, never by tile: neighbouring
tiles share pixels, and frames of one case show the same tissue.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click
import cv2
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.progress import track

from cytoserve.contract import TILE_SIZE, TILE_STEP
from training.checkpoint import explain, hash_files
from training.datasets.annotated import AnnotationError
from training.datasets.readers.brecahad import RADIUS, PointFrame, disc_mask, read_brecahad

INDEX_FILE = "tiles.json"
IMAGES, MASKS = "images", "masks"
TEST_SHARE = 0.2
"""Share of the frames that the study uses for testing."""


@dataclass(frozen=True)
class TileSet:
    """How one data set is cut from cleaned frames; sizes in frame pixels."""

    tile_size: int | None = None
    """Side of the tiles in frame pixels; None for the whole frame or square."""
    step: int | None = None
    """Distance between neighbouring tiles, in frame pixels."""
    parts: int | None = None
    """Number of adjacent tiles along each side of the square, if tiles have no fixed size."""
    square: bool = True
    """Cut tiles from the largest centred square; otherwise the whole frame is the tile."""
    zero: bool = False
    """Remove tiles without a label; the study calls this "zero"."""


def _with_zero(sets: Mapping[str, TileSet]) -> dict[str, TileSet]:
    pairs = {}
    for name, tiles in sets.items():
        pairs[name] = tiles
        if tiles.parts or tiles.tile_size:
            pairs[f"{name} zero"] = TileSet(tiles.tile_size, tiles.step, tiles.parts, zero=True)
    return pairs


SETS: Mapping[str, TileSet] = MappingProxyType(
    _with_zero(
        {
            "original": TileSet(square=False),
            "square": TileSet(),
            "1/4": TileSet(parts=2),
            "512/256": TileSet(512, 256),
            f"{TILE_SIZE}/{TILE_STEP}": TileSet(TILE_SIZE, TILE_STEP),
            "128/64": TileSet(128, 64),
        }
    )
)
"""The study's data sets by name."""


class Tile(BaseModel):
    """One tile: its files, relative to the folder of the index, and its case."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: str
    """Cleaned image: PNG, uint8 ``[h, w, 3]``, RGB."""
    mask: str
    """Mask: PNG, uint8 ``[h, w]``, 255 on nuclei and 0 elsewhere."""
    case: str


class TileIndex(BaseModel):
    """Contents of ``tiles.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    set_name: str
    tile_size: int | None = Field(default=None, gt=0)
    """Side of all tiles in pixels; None for whole frames, whose sizes may differ."""
    step: int | None = Field(default=None, gt=0)
    radius: float = Field(gt=0)
    """Radius of the discs, in pixels."""
    data: dict[str, str]
    """Annotated data set -> sha256, see `training.checkpoint.Recipe`."""
    train: tuple[Tile, ...]
    test: tuple[Tile, ...]


def set_folder(out: Path, set_name: str) -> Path:
    """Folder of one data set below ``out``: `256/128 zero` lies in ``256-128-zero``."""
    return out / set_name.replace("/", "-").replace(" ", "-")


def split_by_case(
    frames: Sequence[PointFrame],
    *,
    test_cases: Iterable[str] | None = None,
    seed: int = 0,
) -> frozenset[str]:
    """Choose the cases to test on: those named, or a draw of close to 20 % of the frames.

    Cases are drawn one after another, as many as bring the share of frames closest to
    ``TEST_SHARE``: at least one and never all.

    Raises:
        ValueError: fewer than two cases, a case that no frame has, or no case left to train on.
    """
    cases = sorted({frame.case for frame in frames})
    if len(cases) < 2:
        raise ValueError(
            f"a split by case takes two cases or more; got {len(cases)} ({', '.join(cases)}). "
            "Add frames of other patients."
        )
    if test_cases is not None:
        named = frozenset(test_cases)
        if not named or named - set(cases):
            given = ", ".join(sorted(named - set(cases))) or "none"
            raise ValueError(f"test cases are some of {', '.join(cases)}; given: {given}.")
        if named == set(cases):
            raise ValueError(
                f"all {len(cases)} cases are named for testing; leave one at least to train on."
            )
        return named
    drawn = np.random.default_rng(seed).permutation(cases).tolist()
    counts = {case: sum(frame.case == case for frame in frames) for case in cases}
    shares = np.cumsum([counts[case] for case in drawn])[:-1] / len(frames)
    taken = int(np.argmin(np.abs(shares - TEST_SHARE))) + 1
    return frozenset(drawn[:taken])


def make_tiles(
    frames: Sequence[PointFrame],
    out: Path,
    set_name: str,
    *,
    radius: float = RADIUS,
    test_cases: Iterable[str] | None = None,
    seed: int = 0,
) -> TileIndex:
    """Write one data set's tiles and ``tiles.json`` into the folder ``out``.

    Tiles of an earlier run are removed together with their index. ``test_cases`` and ``seed`` are
    those of :func:`split_by_case`.

    Raises:
        ValueError: the set is unknown, a frame is smaller than a tile, or the split is impossible
            or has no tile on one side.
    """
    tested = split_by_case(frames, test_cases=test_cases, seed=seed)
    return _make_sets(frames, {set_name: out}, radius, tested)[set_name]


def _make_sets(
    frames: Sequence[PointFrame],
    folders: Mapping[str, Path],
    radius: float,
    tested: frozenset[str],
) -> dict[str, TileIndex]:
    """Make several data sets, set name -> folder; each frame is cleaned only once."""
    # Here, so that help and wrong options are answered before torch is imported.
    from training.preprocessing.clean import clean_image

    for name in folders:
        _check_fits(frames, name)
    for folder in folders.values():
        _empty(folder)
    tiles: dict[str, list[Tile]] = {name: [] for name in folders}
    for frame in track(frames, "cutting tiles", transient=True):
        image = clean_image(frame.read())
        mask = disc_mask(frame.nuclei(), (frame.height, frame.width), radius)
        for name, folder in folders.items():
            tiles[name] += _cut(frame, image, mask, SETS[name], folder)
    data = {str(frames[0].path.parents[1]): hash_files(_files(frames))}
    return {
        name: _write_index(folder, name, tiles[name], tested, radius, data)
        for name, folder in folders.items()
    }


def _write_index(
    folder: Path,
    name: str,
    tiles: Sequence[Tile],
    tested: frozenset[str],
    radius: float,
    data: dict[str, str],
) -> TileIndex:
    train = tuple(tile for tile in tiles if tile.case not in tested)
    test = tuple(tile for tile in tiles if tile.case in tested)
    for side, part in (("train", train), ("test", test)):
        if not part:
            raise ValueError(
                f"set '{name}' has no tile to {side} on, since no nucleus is marked there; choose "
                "other --test-cases, another --seed, or the set without 'zero'."
            )
    cut = SETS[name]
    index = TileIndex(
        set_name=name,
        tile_size=cut.tile_size,
        step=cut.step,
        radius=radius,
        data=data,
        train=train,
        test=test,
    )
    (folder / INDEX_FILE).write_text(index.model_dump_json(indent=1) + "\n")
    return index


def _check_fits(frames: Sequence[PointFrame], name: str) -> None:
    if name not in SETS:
        raise ValueError(f"a data set is one of {', '.join(SETS)}; given: {name}.")
    size = SETS[name].tile_size or SETS[name].parts or 1
    for frame in frames:
        if min(frame.height, frame.width) < size:
            raise ValueError(
                f"{frame.path} has {frame.width} x {frame.height} pixels, a tile of '{name}' "
                f"{size} x {size}; take it out, or choose a set of smaller tiles."
            )


def _empty(folder: Path) -> None:
    """Make the folder, and remove what an earlier run left in it, its index first."""
    if (folder / INDEX_FILE).is_file():
        (folder / INDEX_FILE).unlink()
        for name in (IMAGES, MASKS):
            shutil.rmtree(folder / name, ignore_errors=True)
    for name in (IMAGES, MASKS):
        (folder / name).mkdir(parents=True, exist_ok=True)


def _cut(
    frame: PointFrame,
    image: npt.NDArray[np.uint8],
    mask: npt.NDArray[np.bool_],
    tiles: TileSet,
    folder: Path,
) -> Iterator[Tile]:
    for rows, columns in _windows(frame.height, frame.width, tiles):
        labels = mask[rows, columns]
        if tiles.zero and not labels.any():
            continue
        file = f"{frame.path.stem}_y{rows.start:04d}_x{columns.start:04d}.png"
        _write(folder / IMAGES / file, image[rows, columns, ::-1])  # cv2 expects BGR
        _write(folder / MASKS / file, labels.astype(np.uint8) * 255)
        yield Tile(image=f"{IMAGES}/{file}", mask=f"{MASKS}/{file}", case=frame.case)


def _windows(height: int, width: int, tiles: TileSet) -> Iterator[tuple[slice, slice]]:
    """Yield the rows and columns of every tile, row by row of the grid."""
    if not tiles.square:
        yield slice(0, height), slice(0, width)
        return
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    size = tiles.tile_size or side // (tiles.parts or 1)
    starts = range(0, side - size + 1, tiles.step or size)
    for y in starts:
        for x in starts:
            yield slice(top + y, top + y + size), slice(left + x, left + x + size)


def _write(file: Path, pixels: npt.NDArray[Any]) -> None:
    if not cv2.imwrite(str(file), pixels):
        raise OSError(f"{file} could not be written; is the disk full?")


def _files(frames: Iterable[PointFrame]) -> Iterator[Path]:
    for frame in frames:
        yield frame.path
        yield frame.annotation


def read_tile_index(folder: Path) -> TileIndex:
    """Read ``tiles.json`` of a folder.

    Raises:
        ValueError: the file is missing or damaged.
    """
    file = folder / INDEX_FILE
    if not file.is_file():
        raise ValueError(f"{file} is absent; make it with `python -m training.nuclei_tiles`.")
    try:
        return TileIndex.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{file} is damaged; cut the tiles again:{explain(error)}") from error


@click.command(help=__doc__, context_settings={"show_default": True})
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    required=True,
    help="Folder of images/ and groundTruth/, as BreCaHAD's authors lay it out.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the sets.")
@click.option("--set", "names", multiple=True, type=click.Choice(list(SETS)), help="Set to make.")
@click.option("--all", "all_sets", is_flag=True, help="Make all sets.")
@click.option(
    "--radius",
    type=click.FloatRange(0, min_open=True),
    default=RADIUS,
    help="Of the disc around a centre, in pixels.",
)
@click.option(
    "--test-case", "test_cases", multiple=True, help="Case to test on; else 20 % of the frames."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of the cases drawn to test.")
def main(
    data: Path,
    out: Path,
    names: tuple[str, ...],
    all_sets: bool,
    radius: float,
    test_cases: tuple[str, ...],
    seed: int,
) -> None:
    """Make data sets. The module's docstring is the help text."""
    if bool(names) == all_sets:
        raise click.UsageError("give --set, once or several times, or --all.")
    chosen = tuple(SETS) if all_sets else names
    folders = {name: set_folder(out, name) for name in chosen}
    try:
        frames = read_brecahad(data)
        tested = split_by_case(frames, test_cases=test_cases or None, seed=seed)
        indices = _make_sets(frames, folders, radius, tested)
    except AnnotationError as error:
        raise click.UsageError(f"--data {data}: {error}") from error
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    count = sum(frame.case in tested for frame in frames)
    click.echo(
        f"test: {', '.join(sorted(tested))}, {count} of {len(frames)} frames "
        f"({count / len(frames):.0%}; {TEST_SHARE:.0%} is asked for where cases are not named, and "
        "no case is divided)"
    )
    for name, index in indices.items():
        click.echo(
            f"{folders[name]}: {len(index.train)} tiles to train on, {len(index.test)} to test"
        )


if __name__ == "__main__":
    main()
