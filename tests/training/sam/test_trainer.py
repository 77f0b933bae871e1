"""Losses of SAM: of masks for prompts, and of the maps that an encoder learns of every pixel."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from training.datasets.annotated import AnnotatedDataset
from training.sam.frames import Sides, dense_truth, prepare_frames
from training.sam.settings import MaskLoss
from training.sam.trainer import DenseHead, dense_loss, mask_losses, sam_loss, surroundings


def cells(*places: tuple[slice, slice], side: int = 16) -> torch.Tensor:
    truths = torch.zeros(len(places), side, side)
    for truth, place in zip(truths, places, strict=True):
        truth[place] = 1
    return truths


@pytest.mark.parametrize(
    ("rows", "columns", "near"),
    [
        pytest.param(slice(6, 10), slice(5, 7), (slice(4, 12), slice(4, 8)), id="within"),
        pytest.param(slice(0, 4), slice(12, 16), (slice(0, 6), slice(10, 16)), id="in a corner"),
        pytest.param(slice(3, 4), slice(9, 10), (slice(2, 5), slice(8, 11)), id="one pixel"),
    ],
)
def test_the_box_of_twice_the_sides_weighs_as_much_as_all_else(rows, columns, near) -> None:
    [weights] = surroundings(cells((rows, columns)))
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[near] = True
    assert weights[inside].sum() == pytest.approx(1)
    assert weights[~inside].sum() == pytest.approx(1)
    assert weights[inside].unique().numel() == weights[~inside].unique().numel() == 1


def test_a_cell_as_large_as_the_frame_has_no_outside() -> None:
    assert surroundings(torch.ones(1, 8, 8)).sum() == pytest.approx(1)


@pytest.mark.parametrize("kind", ["focal+dice", "surroundings+dice"])
def test_a_better_mask_costs_less(kind: MaskLoss) -> None:
    truths = cells((slice(4, 8), slice(4, 8)), (slice(1, 9), slice(6, 8)))
    right = (truths * 2 - 1)[:, None] * 6
    nothing, everything = torch.full_like(right, -6), torch.full_like(right, 6)
    losses = mask_losses(torch.cat([right, nothing, everything], dim=1), truths, kind)
    assert torch.all(losses[:, 0] < 0.1)
    assert torch.all(losses[:, 1:] > 0.9)


def test_the_best_mask_alone_is_trained() -> None:
    truths = cells((slice(4, 8), slice(4, 8)))
    good = ((truths * 2 - 1)[:, None] * 2).requires_grad_()
    bad = torch.zeros(1, 2, 16, 16, requires_grad=True)
    qualities = torch.zeros(1, 3)
    sam_loss(torch.cat([good, bad], dim=1), qualities, truths, "surroundings+dice").backward()
    assert good.grad.abs().sum() > 0
    assert bad.grad.abs().sum() == 0


MakeDataset = Callable[..., AnnotatedDataset]

SIDES = Sides(image=64, grid=32)


@pytest.fixture
def truth(make_dataset: MakeDataset) -> torch.Tensor:
    """Two touching cells, 8 x 8 and 8 x 4 pixels of the grid, on frames of 2 pixels each."""
    boxes = [(16, 16, 16, 16), (16, 32, 16, 8)]  # y, x, height, width
    return dense_truth(prepare_frames(make_dataset(boxes, shape=(64, 64)), SIDES)[0], SIDES)


def test_the_maps_tell_touching_cells_apart(truth: torch.Tensor) -> None:
    cells, border, right, down = truth
    expected = torch.zeros(32, 32)
    expected[8:16, 8:20] = 1
    assert torch.equal(cells, expected)
    inner = torch.zeros(32, 32, dtype=torch.bool)
    inner[9:15, 9:15] = inner[9:15, 17:19] = True
    around = torch.zeros(32, 32, dtype=torch.bool)
    around[8:16, 7:21] = around[7:17, 8:20] = True
    assert torch.equal(border > 0, around & ~inner)
    # Centres at (12, 12) and (18, 12), in tens of grid pixels from each pixel's centre.
    assert right[10, 8:20].tolist() == pytest.approx(
        [(12 - x - 0.5) / 10 for x in range(8, 16)] + [(18 - x - 0.5) / 10 for x in range(16, 20)]
    )
    assert down[8:16, 18].tolist() == pytest.approx([(12 - y - 0.5) / 10 for y in range(8, 16)])
    assert not truth[2:, cells == 0].any()


def test_the_loss_is_least_for_the_truth(truth: torch.Tensor) -> None:
    def maps(found: torch.Tensor, border: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        return torch.cat([(found[None] - 0.5) * 40, (border[None] - 0.5) * 40, offsets])[None]

    def loss(answer: torch.Tensor) -> float:
        return float(dense_loss(answer, truth[None]))

    best = loss(maps(truth[0], truth[1], truth[2:]))
    assert best == pytest.approx(0, abs=1e-4)
    nothing = torch.zeros_like(truth[0])
    assert loss(maps(nothing, truth[1], truth[2:])) > best + 1  # the foreground counts twice
    assert loss(maps(truth[0], nothing, truth[2:])) > best + 0.5
    assert loss(maps(truth[0], truth[1], -truth[2:])) > best + 0.05
    elsewhere = truth[2:] + (truth[0] == 0)
    assert loss(maps(truth[0], truth[1], elsewhere)) == pytest.approx(best)


def test_the_head_reads_the_grid_off_the_tokens() -> None:
    assert DenseHead(16)(torch.zeros(2, 16, 8, 8)).shape == (2, 4, 32, 32)
