"""Percentile normalisation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.normalise import PercentileLevels, as_rgb, to_8_bit

BIT_DEPTHS = [pytest.param(8, id="8 bit"), pytest.param(12, id="12 bit"), pytest.param(16, id="16")]


def levels_of(frame: np.ndarray) -> np.ndarray:
    return PercentileLevels()(torch.from_numpy(frame.astype(np.int32))).numpy()


def noise(bits: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(bits).integers(0, 2**bits, shape)


@pytest.mark.parametrize("bits", BIT_DEPTHS)
@pytest.mark.parametrize("channels", [1, 3])
def test_levels_are_numpys_percentiles_where_the_grid_takes_every_pixel(
    bits: int, channels: int
) -> None:
    frame = noise(bits, 128, 128, channels)
    expected = np.percentile(frame, [0.5, 99.5])
    np.testing.assert_allclose(levels_of(frame), expected, rtol=1e-5, atol=2**bits * 1e-5)


@pytest.mark.parametrize("shape", [(300, 211), (1, 5000), (97, 1), (1024, 1024)])
def test_levels_of_a_sampled_frame_are_near_the_percentiles_of_all_pixels(
    shape: tuple[int, int],
) -> None:
    rows = np.linspace(0, 40000, shape[0])[:, None]
    frame = (rows + np.linspace(0, 20000, shape[1]))[..., None].astype(int)
    expected = np.percentile(frame, [0.5, 99.5])
    np.testing.assert_allclose(levels_of(frame), expected, atol=600)


def test_a_constant_frame_becomes_black() -> None:
    frame = torch.full((50, 40, 1), 700, dtype=torch.int32)
    levels = PercentileLevels()(frame)
    assert levels.tolist() == [700, 700]
    assert not to_8_bit(frame.float(), levels).any()


def test_a_hot_pixel_does_not_move_the_levels() -> None:
    frame = noise(8, 128, 128, 1)
    hot = frame.copy()
    hot[60, 60] = 65535
    np.testing.assert_allclose(levels_of(hot), levels_of(frame), atol=1)


def test_grey_has_the_levels_of_the_same_frame_as_rgb() -> None:
    grey = noise(12, 90, 70, 1)
    assert np.array_equal(levels_of(grey), levels_of(np.repeat(grey, 3, axis=2)))


def test_all_channels_share_one_pair_of_levels() -> None:
    frame = noise(8, 128, 128, 3)
    frame[..., 0] //= 4
    np.testing.assert_allclose(levels_of(frame), np.percentile(frame, [0.5, 99.5]), atol=0.01)


@pytest.mark.parametrize("channels", [1, 3])
def test_as_rgb(channels: int) -> None:
    image = torch.arange(4 * channels).reshape(2, 2, channels)
    rgb = as_rgb(image, channel_dim=2)
    assert rgb.shape == (2, 2, 3)
    assert torch.equal(rgb, image.expand(2, 2, 3))


def test_to_8_bit_maps_the_levels_to_black_and_white_and_rounds_between() -> None:
    values = torch.tensor([0.0, 100.0, 101.0, 355.0, 9000.0])
    assert to_8_bit(values, torch.tensor([100.0, 355.0])).tolist() == [0, 0, 1, 255, 255]
