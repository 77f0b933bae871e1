"""Losses and the border weight map."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from training.unet.losses import LOSSES, balancing_weights, border_weights


def brute_force(
    labels: npt.NDArray[np.int32], classes: tuple[float, float], w0: float, sigma: float
) -> npt.NDArray[np.float64]:
    """The formula, read pixel by pixel."""
    weights = np.zeros(labels.shape)
    objects = [np.argwhere(labels == n) for n in np.unique(labels) if n]
    for pixel in np.ndindex(*labels.shape):
        if labels[pixel]:
            weights[pixel] = classes[1]
            continue
        distances = sorted(np.linalg.norm(o - pixel, axis=1).min() for o in objects)
        term = np.exp(-((distances[0] + distances[1]) ** 2) / (2 * sigma**2))
        weights[pixel] = classes[0] + w0 * term
    return weights


def test_border_weights_are_those_of_the_formula() -> None:
    labels = np.zeros((60, 70), np.int32)
    labels[5:20, 5:20] = 1
    labels[8:25, 23:30] = 2  # three pixels beside it
    labels[40:44, 50:60] = 5  # far away; the numbers between are of no object
    labels[22, 10] = 6
    found = border_weights(labels, (0.6, 3.0), w0=10, sigma=2)
    assert found.dtype == np.float32
    assert np.abs(found - brute_force(labels, (0.6, 3.0), 10, 2)).max() < 1e-4
    gap = found[12, 21]
    assert gap == pytest.approx(0.6 + 10 * np.exp(-((2 + 2) ** 2) / 8), rel=1e-5)
    assert found[50, 10] == pytest.approx(0.6)


@pytest.mark.parametrize("objects", [0, 1], ids=["no object", "one object"])
def test_without_a_second_object_there_is_no_border(objects: int) -> None:
    labels = np.zeros((20, 20), np.int32)
    labels[5:9, 5:9] = objects
    weights = border_weights(labels, (0.5, 2.0))
    assert np.array_equal(weights, np.where(labels > 0, 2.0, 0.5))


def test_both_classes_weigh_the_same() -> None:
    background, foreground = balancing_weights(0.1)
    assert 0.9 * background == pytest.approx(0.5)
    assert 0.1 * foreground == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("balance", "ratio"),
    [
        pytest.param(1.0, 9.0, id="in full"),
        pytest.param(0.5, 3.0, id="by half"),
        pytest.param(0.0, 1.0, id="not at all"),
    ],
)
def test_classes_are_balanced_as_far_as_asked(balance: float, ratio: float) -> None:
    background, foreground = balancing_weights(0.1, balance)
    assert foreground / background == pytest.approx(ratio)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_one_class_alone_cannot_be_balanced(share: float) -> None:
    with pytest.raises(ValueError, match="need pixels of both"):
        balancing_weights(share)


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
