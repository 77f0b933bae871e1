"""One cell, one outline: suppression by masks beside a plain loop over masks on the whole frame."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cytoserve.contract import MASK_SIZE
from training.postprocessing import (
    mask_areas,
    merge_cells,
    suppress_by_masks,
    tile_cuts,
)

SIDE = 240
"""Side of the frame."""

Masks = npt.NDArray[np.bool_]
Box = tuple[float, float, float, float]


def patches(masks: Masks) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes ``[N, 4]`` and patches ``[N, M, M]`` of masks on a frame ``[N, H, W]``."""
    boxes, values = [], []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        steps = (np.arange(MASK_SIZE) + 0.5) / MASK_SIZE
        x, y = ((box[a] + steps * (box[a + 2] - box[a])).astype(int) for a in (0, 1))
        boxes.append(box)
        values.append(mask[np.ix_(y, x)].astype(np.uint8) * 255)
    return (
        torch.tensor(np.array(boxes, np.float32).reshape(-1, 4)),
        torch.tensor(np.array(values, np.uint8).reshape(-1, MASK_SIZE, MASK_SIZE)),
    )


def survivors(masks: Masks, threshold: float) -> list[int]:
    boxes, values = patches(masks)
    return suppress_by_masks(boxes, values, torch.tensor([threshold])).tolist()


def share(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> float:
    return np.count_nonzero(one & other) / min(np.count_nonzero(one), np.count_nonzero(other))


def greedy(masks: Masks, threshold: float, verge: float = 0.04) -> tuple[list[int], bool]:
    """Indices that a loop keeps, and whether any decision was close to the threshold."""
    kept: list[int] = []
    close = False
    for index, mask in enumerate(masks):
        shares = [share(masks[other], mask) for other in kept]
        close |= any(abs(each - threshold) < verge for each in shares)
        if not any(each > threshold for each in shares):
            kept.append(index)
    return kept, close


def ellipse(x: float, y: float, a: float, b: float, angle: float = 0.0) -> npt.NDArray[np.bool_]:
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    cv2.ellipse(canvas, ((x, y), (2 * a, 2 * b), angle), 1, -1)
    return canvas.astype(bool)


def rectangle(x0: int, y0: int, x1: int, y1: int) -> npt.NDArray[np.bool_]:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[y0:y1, x0:x1] = True
    return mask


@st.composite
def crowds(draw: st.DrawFn) -> Masks:
    """Discs, ellipses and pieces of earlier cells, as tiles and parts of a cell give them."""
    masks: list[npt.NDArray[np.bool_]] = []
    for _ in range(draw(st.integers(1, 14))):
        x, y = draw(st.integers(40, 200)), draw(st.integers(40, 200))
        kind = draw(st.sampled_from(["disc", "ellipse", "piece"]))
        if kind == "piece" and masks:
            mask = masks[draw(st.integers(0, len(masks) - 1))].copy()
            rows = np.flatnonzero(mask.any(1))
            mask[: int(rows[0] + draw(st.floats(0, 0.8)) * len(rows))] = False
        elif kind == "ellipse":
            mask = ellipse(x, y, draw(st.integers(14, 60)), draw(st.integers(9, 20)), x + 2.0 * y)
        else:
            radius = draw(st.integers(10, 35))
            mask = ellipse(x, y, radius, radius)
        masks.append(mask)
    return np.array(masks)


@settings(max_examples=150)
@given(crowds(), st.sampled_from([0.3, 0.5, 0.6, 0.8]))
def test_suppression_is_that_of_a_loop_over_whole_masks(masks: Masks, threshold: float) -> None:
    expected, close = greedy(masks, threshold)
    if not close:  # masks are compared at points: to within a few hundredths
        assert survivors(masks, threshold) == expected


@pytest.mark.parametrize("seed", range(3))
def test_few_of_hundreds_of_cells_are_decided_otherwise(seed: int) -> None:
    random = np.random.default_rng(seed)
    places, sides = random.uniform(20, 220, (200, 2)), random.uniform(5, 18, (200, 2))
    masks = np.array(
        [ellipse(*p, *s, a) for p, s, a in zip(places, sides, places[:, 0], strict=True)]
    )
    expected, _ = greedy(masks, 0.5)
    assert 20 < len(expected) < 180
    assert len(set(survivors(masks, 0.5)) ^ set(expected)) <= 6


DISC = ellipse(100, 100, 30, 30)

CASES = {
    "one": ([DISC], 0.6, [0]),
    "the same twice": ([DISC, DISC], 0.6, [0]),
    "a chain: what is suppressed suppresses nothing": (
        [rectangle(x, 10, x + 40, 30) for x in (10, 25, 40)],
        *(0.5, [0, 2]),
    ),
    "a long chain": (
        [rectangle(x, 10, x + 40, 30) for x in range(10, 190, 15)],
        *(0.5, list(range(0, 12, 2))),
    ),
    "the smaller one inside, second": ([DISC, ellipse(105, 95, 10, 10)], 0.6, [0]),
    "the larger one around, second": ([ellipse(105, 95, 10, 10), DISC], 0.6, [0]),
    "a piece of a spread cell": (
        [ellipse(100, 100, 60, 12, 30), ellipse(100, 100, 60, 12, 30) & rectangle(0, 0, 100, 240)],
        *(0.6, [0]),
    ),
    "two spread cells that cross": (
        [ellipse(100, 100, 60, 12, 45), ellipse(100, 100, 60, 12, 135)],
        *(0.6, [0, 1]),
    ),
    "beside each other in one box: an L and what it leaves": (
        [rectangle(10, 10, 50, 50) & ~rectangle(30, 10, 50, 30), rectangle(30, 10, 50, 30)],
        *(0.0, [0, 1]),
    ),
    "touching": ([rectangle(10, 10, 30, 30), rectangle(30, 10, 50, 30)], 0.0, [0, 1]),
    "at threshold 0 a common corner is too much": (
        [rectangle(10, 10, 30, 30), rectangle(28, 28, 48, 48)],
        *(0.0, [0]),
    ),
    "at threshold 1 all stay": ([DISC, DISC, ellipse(105, 95, 10, 10)], 1.0, [0, 1, 2]),
    "a share that equals the threshold is none too much": (
        [rectangle(0, 0, 24, 24), rectangle(12, 0, 36, 24)],
        *(0.5, [0, 1]),
    ),
}


@pytest.mark.parametrize(("masks", "threshold", "expected"), CASES.values(), ids=CASES)
def test_what_stays(
    masks: Sequence[npt.NDArray[np.bool_]], threshold: float, expected: list[int]
) -> None:
    assert survivors(np.array(masks), threshold) == expected


def test_no_cell() -> None:
    assert survivors(np.zeros((0, SIDE, SIDE), bool), 0.5) == []


def memory_kb(what: str) -> int:
    """``VmRSS``, the memory of this process now, or ``VmHWM``, its peak, in kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1])


@pytest.mark.parametrize(
    ("cells", "side", "mask_size", "expected"),
    [
        # Their masks on the whole frame take 1 GB, and those of all 47,000 pairs at once 0.5 GB.
        pytest.param(3000, 600, MASK_SIZE, (700, 1000), id="crowded"),
        # Their boxes, all compared with all at once, take 0.7 GB.
        pytest.param(6000, 6000, 8, (5000, 5950), id="many"),
    ],
)
def test_thousands_of_cells_take_little_memory(
    cells: int, side: int, mask_size: int, expected: tuple[int, int]
) -> None:
    corners = np.random.default_rng(0).uniform(0, side - 30, (cells, 2)).astype(np.float32)
    boxes = torch.from_numpy(np.concatenate([corners, corners + 30], axis=1))
    values = torch.full((cells, mask_size, mask_size), 255, dtype=torch.uint8)
    threshold = torch.tensor([0.5])
    suppress_by_masks(boxes[:300], values[:300], threshold)  # what is compiled is compiled
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = memory_kb("VmRSS")
    kept = suppress_by_masks(boxes, values, threshold)
    assert memory_kb("VmHWM") - before < 250_000
    assert expected[0] < len(kept) < expected[1]


def test_areas_are_in_pixels_of_the_boxes() -> None:
    boxes, values = patches(np.array([DISC, rectangle(10, 20, 13, 120)]))
    areas = mask_areas(boxes, (values > 0).to(torch.uint8))
    assert areas.tolist() == pytest.approx([np.count_nonzero(DISC), 300], rel=0.02)


# Two by two tiles of 100 network pixels that overlap by 40.
ORIGINS = torch.tensor([[0.0, 0], [60, 0], [0, 60], [60, 60]])
WHOLE, LARGE, ELSEWHERE = (True, False), (False, True), (False, False)


@pytest.mark.parametrize(
    ("tile", "box", "expected"),
    [
        pytest.param(0, (10, 10, 30, 30), WHOLE, id="inside"),
        pytest.param(0, (80, 10, 100, 30), ELSEWHERE, id="small, cut by an inner edge"),
        pytest.param(0, (80, 10, 98, 30), ELSEWHERE, id="small, as good as cut"),
        pytest.param(0, (80, 10, 97, 30), WHOLE, id="near an inner edge"),
        pytest.param(0, (64, 10, 100, 30), ELSEWHERE, id="just as large as the overlap allows"),
        pytest.param(0, (63, 10, 100, 30), LARGE, id="larger than the overlap"),
        pytest.param(1, (0, 10, 20, 30), ELSEWHERE, id="cut by the left edge"),
        pytest.param(2, (10, 0, 30, 20), ELSEWHERE, id="cut by the upper edge"),
        pytest.param(0, (10, 80, 30, 100), ELSEWHERE, id="cut by the lower edge"),
        pytest.param(0, (0, 0, 20, 20), WHOLE, id="at the frame's corner"),
        pytest.param(3, (80, 80, 100, 100), WHOLE, id="at the frame's far corner"),
        pytest.param(0, (50, 80, 100, 100), ELSEWHERE, id="long, and cut where it is short"),
        pytest.param(0, (30, 30, 100, 100), LARGE, id="large, cut at a corner"),
        pytest.param(0, (0, 0, 100, 100), LARGE, id="as large as its tile"),
    ],
)
def test_what_a_tile_cuts(tile: int, box: Box, expected: tuple[bool, bool]) -> None:
    size, overlap = torch.tensor([100.0, 100.0]), torch.tensor(40.0)
    whole, large = tile_cuts(torch.tensor([box]), torch.tensor([tile]), ORIGINS, size, overlap)
    assert (bool(whole), bool(large)) == expected


@pytest.mark.parametrize(
    "origins",
    [
        pytest.param([[0.0, 0.0]], id="one tile"),
        pytest.param([[-20.0, -30.0]], id="one padded tile"),
    ],
)
def test_one_tile_cuts_nothing(origins: list[list[float]]) -> None:
    boxes = torch.tensor([[0.0, 0, 100, 100], [90, 90, 100, 100], [0, 0, 5, 5]])
    tiles, size = torch.zeros(3, dtype=torch.int64), torch.tensor([100.0, 100.0])
    whole, large = tile_cuts(boxes, tiles, torch.tensor(origins), size, torch.tensor(40.0))
    assert whole.all()
    assert not large.any()


Cell = tuple[npt.NDArray[np.bool_], float, tuple[bool, bool]]
"""A mask, its score, and what `tile_cuts` says of it."""


def merged(cells: Sequence[Cell], cap: int = 100) -> tuple[list[int], int]:
    boxes, values = patches(np.array([mask for mask, _, _ in cells]).reshape(-1, SIDE, SIDE))
    whole, large = torch.tensor([cut for *_, cut in cells]).bool().reshape(-1, 2).unbind(1)
    scores = torch.tensor([score for _, score, _ in cells])
    threshold, most = torch.tensor([0.6]), torch.tensor([cap], dtype=torch.int32)
    kept, found = merge_cells(boxes, values, scores, whole, large, threshold, most)
    return kept.tolist(), int(found)


PIECE = DISC & rectangle(0, 0, 110, 240)
FAR = ellipse(190, 190, 20, 20)

MERGED = {
    "nothing": ([], []),
    "best score first": ([(DISC, 0.4, WHOLE), (FAR, 0.9, WHOLE)], [1, 0]),
    "of equal scores one stays": ([(DISC, 0.5, WHOLE), (DISC, 0.5, WHOLE)], [0]),
    "the whole one stays, not the better-scored piece": (
        [(PIECE, 0.9, LARGE), (DISC, 0.3, WHOLE)],
        [1],
    ),
    "a large one that every tile cuts": ([(PIECE, 0.9, LARGE), (FAR, 0.3, WHOLE)], [0, 1]),
    "a piece that lies whole elsewhere": ([(PIECE, 0.9, ELSEWHERE), (FAR, 0.3, WHOLE)], [1]),
    "a piece, straight along its box, loses half its score": (
        [(PIECE, 0.6, WHOLE), (DISC, 0.5, WHOLE)],
        [1],
    ),
    "though not more than half": ([(PIECE, 0.9, WHOLE), (DISC, 0.2, WHOLE)], [0]),
}


@pytest.mark.parametrize(("cells", "expected"), MERGED.values(), ids=MERGED)
def test_which_cells_are_answered(cells: Sequence[Cell], expected: list[int]) -> None:
    assert merged(cells) == (expected, len(expected))


@pytest.mark.parametrize("cap", [1, 2, 3])
def test_the_cap_keeps_the_best_and_all_are_counted(cap: int) -> None:
    cells = [(ellipse(40 + 60 * i, 100, 10, 10), 0.3 + 0.1 * i, WHOLE) for i in range(3)]
    assert merged(cells, cap) == ([2, 1, 0][:cap], 3)


def test_a_speck_is_no_cell() -> None:
    """It may lie between the points at which masks are compared, and so on another cell."""
    boxes = torch.tensor([[10.0, 10, 66, 66]] * 3)
    values = torch.zeros(3, MASK_SIZE, MASK_SIZE, dtype=torch.uint8)
    values[0] = 255
    values[1, 2, 2] = 255
    values[2, 20:26, 20:26] = 127  # nowhere above one half
    everything, scores = torch.ones(3, dtype=torch.bool), torch.tensor([0.9, 0.8, 0.7])
    most = torch.tensor([9], dtype=torch.int32)
    kept, found = merge_cells(
        boxes, values, scores, everything, ~everything, torch.tensor([0.6]), most
    )
    assert (kept.tolist(), int(found)) == ([0], 1)
