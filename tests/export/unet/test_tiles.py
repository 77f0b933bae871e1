"""The grid of tiles: cut as the contract says, and put together without a trace."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cytoserve.contract import TILE_MARGIN, TILE_SIZE, TILE_STEP
from export.unet import steps
from export.unet.tiles import EDGE, CutTiles, StitchTiles

SIZES = [
    pytest.param((1, 1), id="1x1"),
    pytest.param((1, 300), id="one row"),
    pytest.param((TILE_STEP, TILE_STEP + 1), id="a pixel more than a step"),
    pytest.param((97, 330), id="odd"),
    pytest.param((3 * TILE_STEP, 2 * TILE_STEP), id="multiples of the step"),
]


def cut(frame: np.ndarray) -> torch.Tensor:
    return CutTiles()(torch.from_numpy(frame[None]))


def stitch(tiles: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    frame: np.ndarray = StitchTiles()(tiles, torch.tensor(size, dtype=torch.int32))[0].numpy()
    return frame


@pytest.mark.parametrize("size", SIZES)
def test_tiles_are_those_of_the_mirrored_frame(size: tuple[int, int]) -> None:
    frame = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    counts = [max(1, -(-(side + 2 * TILE_MARGIN - TILE_SIZE) // TILE_STEP) + 1) for side in size]
    after = [
        count * TILE_STEP + TILE_STEP - TILE_MARGIN - side
        for count, side in zip(counts, size, strict=True)
    ]
    padded = np.pad(frame, [(TILE_MARGIN, end) for end in after], "reflect")
    expected = [
        padded[row * TILE_STEP :, column * TILE_STEP :][:TILE_SIZE, :TILE_SIZE]
        for row in range(counts[0])
        for column in range(counts[1])
    ]
    np.testing.assert_array_equal(cut(frame)[:, 0].numpy(), np.stack(expected))


@pytest.mark.parametrize("size", SIZES)
def test_every_pixel_lies_well_inside_some_tile(size: tuple[int, int]) -> None:
    inside = np.zeros((1, TILE_SIZE, TILE_SIZE), np.uint8)
    inside[:, TILE_MARGIN:-TILE_MARGIN, TILE_MARGIN:-TILE_MARGIN] = 255
    tiles = torch.from_numpy(np.repeat(inside, len(cut(np.zeros(size, np.uint8))), axis=0))
    # Blending would leave 0 where a pixel is in the margins of all its tiles.
    assert stitch(tiles, size).min() > 0


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "pattern",
    [
        pytest.param(lambda y, x: np.full_like(y + x, 255), id="full"),
        pytest.param(lambda y, x: (y + 2 * x) % 256, id="ramp"),
        pytest.param(lambda y, x: (y * 31 + x * 17) % 256, id="noise"),
    ],
)
def test_tiles_that_agree_are_stitched_exactly(size: tuple[int, int], pattern) -> None:
    y, x = np.ogrid[: size[0], : size[1]]
    frame = pattern(y, x).astype(np.uint8)
    np.testing.assert_array_equal(stitch(cut(frame)[:, 0], size), frame)


def test_tiles_that_disagree_change_places_smoothly() -> None:
    """Two tiles side by side, 0 and 255: no step where one begins or the other ends."""
    tiles = torch.stack(
        [torch.zeros(TILE_SIZE, TILE_SIZE), torch.full((TILE_SIZE, TILE_SIZE), 255)]
    )
    row = stitch(tiles.to(torch.uint8), (TILE_STEP, 2 * TILE_STEP))[5].astype(int)
    assert row[0] == 0
    assert row[-1] == 255
    shared = row[TILE_MARGIN : TILE_MARGIN + TILE_STEP]
    assert np.all(np.diff(shared) >= 0)
    assert np.all(shared[:EDGE] == 0)
    assert np.all(shared[-EDGE:] == 255)
    np.testing.assert_allclose(shared + shared[::-1], 255, atol=1)
    assert np.diff(row).max() <= 13


@pytest.mark.parametrize("size", SIZES)
def test_the_edges_of_tiles_count_nothing(size: tuple[int, int]) -> None:
    frame = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    tiles = cut(frame)[:, 0]
    spoiled = torch.full_like(tiles, 255)
    inner = (slice(None), slice(EDGE, -EDGE), slice(EDGE, -EDGE))
    spoiled[inner] = tiles[inner]
    np.testing.assert_array_equal(stitch(spoiled, size), frame)


@pytest.mark.parametrize("make", [steps.nuclei_stitch, steps.nuclei_prepare, steps.glioma_prepare])
def test_graphs_answer_as_the_modules_do(make) -> None:
    step = make()
    assert max(figure for case in step.parity.values() for figure in case.values()) <= 1
    assert {"1x1", "one row"} <= {name.partition(",")[0] for name in step.parity}
