"""The probability threshold of a U-Net: from a histogram, the best Dice of all pixels together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cytoserve.foreground import foreground_mask
from training.evaluation import PICTURE, THRESHOLDS, draw_threshold
from training.unet.threshold import unet_threshold


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
