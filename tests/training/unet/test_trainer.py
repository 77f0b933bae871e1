"""Losses of the U-Nets, and the probability threshold by the masks that are served."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cytoserve.foreground import foreground_mask
from training.evaluation import PICTURE, THRESHOLDS, draw_threshold
from training.unet.trainer import LOSSES, unet_threshold


def test_dice_loss_is_one_minus_dice() -> None:
    truth = torch.zeros(1, 1, 4, 4)
    truth[..., :2] = 1
    predicted = torch.zeros(1, 1, 4, 4)
    predicted[..., 1:] = 1
    loss = LOSSES["dice"]((predicted - 0.5) * 100, truth, torch.ones(1, 1, 1, 1))
    assert float(loss) == pytest.approx(1 - 2 * 4 / (8 + 12), abs=1e-5)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("others", [0, 1], ids=["alone", "beside a frame with cells"])
def test_an_empty_frame_has_a_finite_loss_that_teaches(name: str, others: int) -> None:
    truth = torch.zeros(1 + others, 1, 8, 8)
    truth[1:, :, :4] = 1
    logits = torch.where(truth > 0, 5.0, -5.0).requires_grad_()
    with torch.no_grad():
        logits[0] = 3.0  # foreground is found where there is none
    weights = torch.full_like(truth, 0.6)
    loss = LOSSES[name](logits, truth, weights)
    loss.backward()
    assert logits.grad is not None
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()
    blank = logits.grad[0]
    if name == "dice" and not others:
        assert not blank.any()  # no prediction overlaps with nothing
    else:
        assert (blank > 0).all()


def test_cross_entropy_is_weighted() -> None:
    logits, truth = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    weights = torch.tensor([[[[1.0, 0.0], [0.0, 3.0]]]])
    assert float(LOSSES["cross-entropy"](logits, truth, weights)) == pytest.approx(np.log(2))
    plain = LOSSES["cross-entropy"](logits, truth, torch.ones(1, 1, 1, 1))
    assert float(plain) == pytest.approx(np.log(2))


def test_the_sum_is_the_sum() -> None:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn((2, 1, 8, 8), generator=random)
    truth = (torch.rand((2, 1, 8, 8), generator=random) < 0.3).float()
    weights = torch.rand((2, 1, 8, 8), generator=random)
    total, dice, entropy = (
        float(LOSSES[name](logits, truth, weights))
        for name in ("dice+cross-entropy", "dice", "cross-entropy")
    )
    assert total == pytest.approx(dice + entropy)


class AsTold(nn.Module):
    """A network whose probability is the image's red, 0..255 for 0..1."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.logit(images[:, :1].double() / 255, eps=1e-9).float()


Batch = tuple[Tensor, Tensor, Tensor]


def batch(probability: np.ndarray, truth: np.ndarray) -> Batch:
    """One image ``[H, W]`` that `AsTold` answers so."""
    pixels = torch.from_numpy(np.rint(probability * 255).astype(np.uint8)).expand(1, 3, -1, -1)
    return pixels, torch.from_numpy(truth.astype(np.float32))[None, None], torch.ones(1, 1, 1, 1)


def two_levels(background: float, foreground: float) -> Batch:
    """Half of the image is foreground."""
    truth = np.zeros((20, 20), bool)
    truth[:, 10:] = True
    return batch(np.where(truth, foreground, background), truth)


def blank(probability: float) -> Batch:
    return batch(np.full((20, 20), probability), np.zeros((20, 20), bool))


@pytest.mark.parametrize(
    ("batches", "value"),
    [
        pytest.param([two_levels(0.2, 0.8)], 0.5, id="the middle of what is equally good"),
        pytest.param([two_levels(0.1, 0.3)], 0.2, id="a network of low probabilities"),
        pytest.param([two_levels(0.2, 0.8), blank(0.6)], 0.7, id="above what an empty frame shows"),
        pytest.param([two_levels(0.2, 0.8), two_levels(0.4, 0.6)], 0.5, id="several images"),
        pytest.param([two_levels(0.0, 1.0)], 0.5, id="a perfect network"),
        pytest.param([two_levels(0.995, 1.0)], 0.5, id="nothing to choose between"),
    ],
)
def test_the_threshold_of(batches: list[Batch], value: float) -> None:
    chosen = unet_threshold(AsTold(), batches)
    assert chosen is not None
    assert chosen.metric == "Dice"
    assert chosen.value == pytest.approx(value, abs=0.021)


def test_the_curve_is_the_score_of_the_masks_that_are_served() -> None:
    random = np.random.default_rng(0)
    truth = random.random((3, 30, 40)) < 0.3
    truth[2] = False  # an empty frame
    probability = np.clip(random.normal(0.35 + 0.3 * truth, 0.2), 0, 1)
    batches = [batch(p, t) for p, t in zip(probability, truth, strict=True)]
    chosen = unet_threshold(AsTold(), batches)
    assert chosen is not None
    assert chosen.thresholds == THRESHOLDS
    served = np.rint(probability * 255).astype(np.uint8)
    for index in (0, 10, 24, 40, 48):
        mask = foreground_mask(served, THRESHOLDS[index])
        both = np.count_nonzero(mask & truth)
        found = np.count_nonzero(mask)
        assert chosen.best[index] == pytest.approx(2 * both / (found + truth.sum()), abs=1e-4)
        assert chosen.precision[index] == pytest.approx(both / found if found else 1, abs=1e-4)
        assert chosen.recall[index] == pytest.approx(both / truth.sum(), abs=1e-4)
    assert chosen.best[THRESHOLDS.index(chosen.value)] >= max(chosen.best) - 0.0051


def test_without_foreground_there_is_nothing_to_choose_by() -> None:
    assert unet_threshold(AsTold(), [blank(0.1), blank(0.9)]) is None


def test_the_choice_is_drawn(tmp_path: Path) -> None:
    chosen = unet_threshold(AsTold(), [two_levels(0.2, 0.8)])
    assert chosen is not None
    assert draw_threshold(chosen, tmp_path) == tmp_path / PICTURE
    assert (tmp_path / PICTURE).read_bytes().startswith(b"\x89PNG")
