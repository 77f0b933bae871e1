"""What SAM's losses weigh."""

from __future__ import annotations

import pytest
import torch

from training.sam.losses import MaskLoss, mask_losses, sam_loss, surroundings


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
