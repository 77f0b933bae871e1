"""The plain merge of tiles: one cell is one answer, the whole one before its pieces."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import pytest
import torch

from cytoserve.contract import MASK_SIZE
from export.parity.reference import ReferenceCells, TileGrid, merge_tiles, scaled_sides, tile_starts
from training.postprocessing import merge_cells, tile_cuts

Box = tuple[float, float, float, float]
WIDTH, HEIGHT = 100, 80


def grid(scale: float = 1.0, overlap: float = 40.0) -> TileGrid:
    """Two tiles of 100 x 80 network pixels that overlap by 40."""
    frame = (round(HEIGHT / scale), round(160 / scale))
    return TileGrid([(0.0, 0.0), (60.0, 0.0)], (WIDTH, HEIGHT), (scale, scale), frame, overlap)


def tile(*cells: tuple[Box, float]) -> ReferenceCells:
    """Discs that fill their boxes, cut off by the tile."""
    x, y = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    masks = [
        ((x - (b[0] + b[2]) / 2) / (b[2] - b[0])) ** 2
        + ((y - (b[1] + b[3]) / 2) / (b[3] - b[1])) ** 2
        <= 0.25
        for b, _ in cells
    ]
    boxes = np.array([b for b, _ in cells], np.float32).reshape(-1, 4)
    return ReferenceCells(
        np.clip(boxes, 0, (WIDTH, HEIGHT, WIDTH, HEIGHT)).astype(np.float32),
        np.array([score for _, score in cells], np.float32),
        np.zeros(len(cells), np.int64),
        np.array(masks, bool).reshape(-1, HEIGHT, WIDTH),
    )


CASES = {
    "nothing": ([], [], []),
    "one in one tile": ([((5, 5, 25, 25), 0.9)], [], [(5, 5, 25, 25)]),
    "in both tiles": (
        [((65, 5, 85, 25), 0.9)],
        [((5, 5, 25, 25), 0.8)],
        [(65, 5, 85, 25)],
    ),
    "a piece at an inner edge lies whole elsewhere": (
        [((90, 5, 110, 25), 0.9)],
        [((30, 5, 50, 25), 0.4)],
        [(90, 5, 110, 25)],
    ),
    "a piece alone is left out": ([((90, 5, 110, 25), 0.9)], [], []),
    "larger than the overlap, cut in both": (
        [((30, 5, 130, 75), 0.9)],
        [((-30, 5, 70, 75), 0.8)],
        [(30, 5, 100, 75)],
    ),
    "at the frame's own edge": ([((-10, 5, 10, 25), 0.9)], [], [(0, 5, 10, 25)]),
    "neighbours stay": (
        [((5, 5, 25, 25), 0.5), ((25, 5, 45, 25), 0.9)],
        [],
        [(25, 5, 45, 25), (5, 5, 25, 25)],
    ),
}


@pytest.mark.parametrize(("left", "right", "expected"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_one_cell_is_one_answer(
    left: Sequence[tuple[Box, float]],
    right: Sequence[tuple[Box, float]],
    expected: Sequence[Box],
    scale: float,
) -> None:
    merged = merge_tiles([tile(*left), tile(*right)], grid(scale), 0.6)
    np.testing.assert_allclose(merged.boxes * scale, np.array(expected).reshape(-1, 4))
    assert merged.masks.shape == (len(expected), *grid(scale).frame_size)
    for box, mask in zip(merged.boxes, merged.masks, strict=True):
        rows, columns = np.nonzero(mask)
        tight = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        np.testing.assert_allclose(tight, box, atol=2.0 / scale)


def test_what_may_be_decided_either_way_is_doubtful() -> None:
    half = tile(((5, 5, 45, 45), 0.9), ((21, 5, 61, 45), 0.5))  # share 0.5
    for threshold, margin, doubtful in (
        (0.9, 0.1, [False, False]),
        (0.52, 0.1, [False, True]),
        (0.48, 0.1, [False, True]),
        (0.2, 0.1, [False]),
        (0.52, 0.0, [False, False]),
        (0.48, 0.0, [False]),
    ):
        merged = merge_tiles([half, tile()], grid(), threshold, margin)
        assert merged.doubtful is not None
        assert merged.doubtful.tolist() == doubtful, (threshold, margin)
    equal = tile(((5, 5, 45, 45), 0.9), ((5, 5, 45, 45), 0.9))
    merged = merge_tiles([equal, tile()], grid(), 0.6, 0.1)
    assert merged.doubtful is not None
    assert merged.doubtful.tolist() == [True, True]


def test_probabilities_are_laid_on_the_frame() -> None:
    one = tile(((5, 5, 25, 25), 0.9))
    soft = ReferenceCells(*list(vars(one).values())[:4], one.masks.astype(np.float32) * 0.7)
    none = tile()
    empty = ReferenceCells(*list(vars(none).values())[:4], none.masks.astype(np.float32))
    merged = merge_tiles([empty, soft], grid(), 0.6)
    assert merged.probabilities is not None
    np.testing.assert_array_equal(merged.probabilities >= 0.5, merged.masks)
    assert merged.probabilities[0, 15, 75] == pytest.approx(0.7)
    assert merge_tiles([none, one], grid(), 0.6).probabilities is None


@pytest.mark.parametrize("seed", range(8))
def test_the_rules_are_those_of_the_graph(seed: int) -> None:
    """Both keep the same of a hundred random discs, but for those on the verge of a rule."""
    random = np.random.default_rng(seed)
    tiles = []
    for _ in range(2):
        sides = random.uniform(8, 60, (60, 2))
        corner = random.uniform(-10, 1, (60, 2)) + random.uniform(0, 1, (60, 2)) * (90, 70)
        boxes = np.concatenate([corner, corner + sides], axis=1)
        scores = random.uniform(0.05, 1, 60)
        tiles.append(tile(*[(tuple(b), s) for b, s in zip(boxes, scores, strict=True)]))
    expected = merge_tiles(tiles, grid(), 0.6, margin=0.1)
    assert expected.doubtful is not None
    answer = {tuple(np.round(box, 3)) for box in _merged_by_graph(tiles, grid())}
    possible, sure = (
        {tuple(np.round(box, 3)) for box in boxes}
        for boxes in (expected.boxes, expected.boxes[~expected.doubtful])
    )
    assert len(sure) > 10
    assert sure <= answer <= possible


def _merged_by_graph(tiles: Sequence[ReferenceCells], where: TileGrid) -> np.ndarray:
    steps = (np.arange(MASK_SIZE) + 0.5) / MASK_SIZE
    boxes = np.concatenate([cells.boxes for cells in tiles])
    patches = []
    for cells in tiles:
        for box, mask in zip(cells.boxes, cells.masks, strict=True):
            x, y = (box[a] + steps * (box[a + 2] - box[a]) - 0.5 for a in (0, 1))
            places = [each.astype(np.float32) for each in np.meshgrid(x, y)]
            values = cv2.remap(
                mask.astype(np.float32), *places, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
            )
            patches.append(np.rint(values * 255))
    index = torch.arange(len(tiles)).repeat_interleave(len(tiles[0].boxes))
    origins = torch.tensor(where.origins)
    size = torch.tensor(where.tile_size, dtype=torch.float32)
    on_tile = torch.from_numpy(boxes)
    whole, large = tile_cuts(on_tile, index, origins, size, torch.tensor(where.overlap))
    on_frame = on_tile + origins[index].repeat(1, 2)
    kept, _ = merge_cells(
        on_frame,
        torch.from_numpy(np.array(patches).astype(np.uint8)),
        torch.from_numpy(np.concatenate([cells.scores for cells in tiles])),
        whole,
        large,
        torch.tensor([0.6]),
        torch.tensor([4096], dtype=torch.int32),
    )
    return on_frame[kept].numpy()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(50, [0], id="fits"),
        pytest.param(100, [0], id="fits exactly"),
        pytest.param(101, [0, 1], id="one pixel more"),
        pytest.param(180, [0, 80], id="two by the overlap"),
        pytest.param(300, [0, 67, 133, 200], id="four"),
    ],
)
def test_tiles_cover_a_side(content: int, expected: list[int]) -> None:
    assert tile_starts(content, 100, 20) == expected


def test_sides_are_whole_network_pixels() -> None:
    assert scaled_sides((101, 1), 0.3) == (30, 1)
