"""Dice, IoU and DS^C."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from training.preprocessing.normalise import PrepareWholeFrame
from training.unet.dice import (
    dice_at,
    dice_score,
    iou_score,
    predict_at,
    resize_image,
    resize_truth,
)
from training.unet.settings import RESOLUTIONS, parse_resolution


class Threshold(nn.Module):
    """A network that finds pixels above a grey level, and remembers the sizes that it saw."""

    def __init__(self, level: float = 127.5) -> None:
        super().__init__()
        self.level = level
        self.seen: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(tuple(images.shape))
        return (images[:, :1].float() - self.level) * 10


def half(height: int, width: int) -> np.ndarray:
    """A frame whose right half is bright."""
    image = np.full((height, width), 10, np.uint16)
    image[:, width // 2 :] = 3000
    return image


@pytest.mark.parametrize(
    ("prediction", "truth", "dice", "iou"),
    [
        pytest.param([1, 1, 0, 0], [0, 1, 1, 0], 0.5, 1 / 3, id="half"),
        pytest.param([1, 1, 0, 0], [1, 1, 0, 0], 1.0, 1.0, id="equal"),
        pytest.param([1, 0, 0, 0], [0, 1, 0, 0], 0.0, 0.0, id="apart"),
        pytest.param([0, 0, 0, 0], [0, 0, 0, 0], 1.0, 1.0, id="both empty"),
        pytest.param([0, 1, 0, 0], [0, 0, 0, 0], 0.0, 0.0, id="truth empty"),
    ],
)
def test_scores_of_masks(prediction: list[int], truth: list[int], dice: float, iou: float) -> None:
    a, b = np.array([prediction], bool), np.array([truth], bool)
    assert dice_score(a, b) == pytest.approx(dice)
    assert iou_score(a, b) == pytest.approx(iou)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_scores_are_the_study_s_formulas(share: float) -> None:
    a, b = np.random.default_rng(0).random((2, 40, 50)) < share
    both = np.count_nonzero(a & b)
    assert dice_score(a, b) == pytest.approx(2 * both / (a.sum() + b.sum()))
    assert iou_score(a, b) == pytest.approx(both / np.count_nonzero(a | b))
    assert dice_score(a.T, b.T) == dice_score(a, b)  # however they lie in memory


def test_masks_of_two_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"have one shape; got \(2, 3\) and \(3, 2\)"):
        dice_score(np.ones((2, 3), bool), np.ones((3, 2), bool))


@pytest.mark.parametrize(
    ("text", "size"),
    [
        pytest.param("704p", (512, 704), id="704p"),
        pytest.param("1472p", (1120, 1472), id="1472p"),
        pytest.param("2592p", (1952, 2592), id="2592p"),
        pytest.param("640x480", (480, 640), id="width first"),
        pytest.param("native", None, id="native"),
    ],
)
def test_resolutions(text: str, size: tuple[int, int] | None) -> None:
    assert parse_resolution(text) == size


@pytest.mark.parametrize("text", ["", "1080p", "0x10", "10x0", "10 x 10", "-3x4", "999999x1", "x"])
def test_other_resolutions_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a resolution is 704p, 1472p, 2592p, native or"):
        parse_resolution(text)


def test_prediction_at_one_resolution_is_compared_at_another() -> None:
    image, network = half(40, 60), Threshold()
    truth = (image > 100).astype(np.uint16) * 7  # any label above 0 is foreground
    assert dice_at(network, image, truth, "704p", "30x20") > 0.97
    assert network.seen == [(1, 3, *RESOLUTIONS["704p"])]
    assert dice_at(network, image, truth, "native", "native") == 1.0
    assert network.seen[1] == (1, 3, 40, 60)
    assert dice_at(network, image, 1 - truth // 7, "native", "native") == 0.0


def test_a_prepared_frame_is_predicted_as_it_is() -> None:
    image = half(20, 30)
    prepared = PrepareWholeFrame()(torch.from_numpy(image[:, :, None].astype(np.int32)))
    # Prepared once more, the brighter half alone would no longer exceed this level.
    for frame in (image, prepared):
        assert np.array_equal(predict_at(Threshold(250), frame, "native", (20, 30)), image > 100)


def test_a_probability_of_one_half_is_foreground() -> None:
    even = np.zeros((8, 8), np.uint8)  # prepared, it is 128 everywhere
    assert predict_at(Threshold(128.0), even, "native", (8, 8)).all()
    assert not predict_at(Threshold(128.1), even, "native", (8, 8)).any()


def test_every_truth_value_above_0_becomes_1() -> None:
    truth = np.zeros((4, 4), bool)
    truth[0, 0] = True
    # A 2x2 mean of 0.25: kept, where a threshold of 0.5 would lose it.
    assert resize_truth(truth, (2, 2)).tolist() == [[True, False], [False, False]]
    assert resize_truth(truth, None).sum() == 1
    # Only source pixels next to a target pixel's centre count, so that objects do not thicken.
    assert resize_truth(np.pad(truth, (0, 12)), (4, 4)).sum() == 0


def test_images_are_resized_without_aliasing() -> None:
    stripes = torch.zeros((1, 3, 64, 64), dtype=torch.uint8)
    stripes[..., ::4] = 200
    small = resize_image(stripes, (8, 8))
    assert small.dtype == torch.uint8
    assert int(small[..., 1:-1].float().std()) <= 3
    assert resize_image(stripes, None) is not stripes
    assert torch.equal(resize_image(stripes, (64, 64)), stripes)
