"""Percentile normalisation, and whole frames with their contrast raised."""

from __future__ import annotations

import io
import warnings

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from torchvision.transforms.v2 import functional as transforms

from training.preprocessing.normalise import (
    CONTRAST,
    MIN_NOISE,
    MIN_SPAN,
    NOISE_SIDE,
    SAMPLE_SIDE,
    PercentileLevels,
    PrepareWholeFrame,
    as_rgb,
    to_8_bit,
)
from training.preprocessing.normalise import noise as measured_noise
from training.rendered import RenderSettings, render_frame

BIT_DEPTHS = [pytest.param(8, id="8 bit"), pytest.param(12, id="12 bit"), pytest.param(16, id="16")]


def as_tensor(frame: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.rint(frame).astype(np.int32))


def levels_of(frame: np.ndarray) -> np.ndarray:
    return PercentileLevels()(as_tensor(frame)).numpy()


def seen(frame: np.ndarray) -> np.ndarray:
    """What a network sees: uint8 of the shape of the frame."""
    image = as_tensor(frame)
    return to_8_bit(image.float(), PercentileLevels()(image)).numpy()


def ramp(bits: int, *shape: int) -> np.ndarray:
    """Random values, sorted: no two neighbours in a row differ by much, so there is no noise."""
    return np.sort(np.random.default_rng(bits).integers(0, 2**bits, shape), axis=None).reshape(
        shape
    )


def noisy(offset: float, sigma: float, *shape: int) -> np.ndarray:
    """Read noise."""
    return offset + np.random.default_rng(0).normal(0, sigma, shape)


@pytest.mark.parametrize("bits", BIT_DEPTHS)
@pytest.mark.parametrize("channels", [1, 3])
def test_levels_are_numpys_percentiles_where_the_grid_takes_every_pixel(
    bits: int, channels: int
) -> None:
    frame = ramp(bits, 128, 128, channels)
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


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="as rendered"),
        pytest.param({"bits": 12}, id="12 bit"),
        pytest.param({"exposure": 0.02}, id="short exposure"),
        pytest.param({"cells": 3, "round_fraction": 0}, id="few spread cells"),
    ],
)
def test_a_frame_with_cells_keeps_its_percentiles(settings: dict[str, float]) -> None:
    frame = render_frame(RenderSettings(**settings), seed=1)[0][:, :, None].astype(int)
    grid = (2 * np.arange(SAMPLE_SIDE) + 1) * frame.shape[0] // (2 * SAMPLE_SIDE)
    sampled = np.repeat(frame[grid][:, grid], 3, axis=2)  # grey counts as three equal channels
    np.testing.assert_allclose(levels_of(frame), np.percentile(sampled, [0.5, 99.5]), rtol=1e-5)


@pytest.mark.parametrize("value", [0, 1, 700, 65535])
@pytest.mark.parametrize("shape", [(50, 40, 1), (50, 40, 3), (1, 1, 1), (1, 2, 1), (1, 90, 3)])
def test_a_constant_frame_becomes_middle_grey(value: int, shape: tuple[int, ...]) -> None:
    frame = np.full(shape, value)
    least = MIN_SPAN * MIN_NOISE
    assert levels_of(frame).tolist() == [value - least / 2, value + least / 2]
    assert set(np.unique(seen(frame)).tolist()) == {128}


def test_a_few_photons_in_the_dark_are_not_white() -> None:
    """Most differences of such a frame are 0, and so is their median."""
    frame = np.random.default_rng(0).poisson(0.1, (300, 300, 1))
    low, high = levels_of(frame)
    assert high - low >= MIN_SPAN * MIN_NOISE
    assert np.percentile(seen(frame), 99) - np.percentile(seen(frame), 1) <= 255 / 3


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(noisy(60, 2, 300, 400, 1), id="8 bit, sigma 2"),
        pytest.param(noisy(60, 10, 300, 400, 1), id="8 bit, sigma 10"),
        pytest.param(noisy(400, 1, 300, 400, 1), id="12 bit, sigma 1"),
        pytest.param(noisy(400, 50, 300, 400, 1), id="12 bit, sigma 50"),
        pytest.param(noisy(30000, 1000, 300, 400, 1), id="16 bit, sigma 1000"),
        pytest.param(noisy(30000, 1000, 300, 400, 3), id="RGB"),
        pytest.param(noisy(30000, 1000, 1, 8000, 1), id="one row"),
        pytest.param(np.random.default_rng(0).poisson(20, (300, 400, 1)), id="shot noise of 20"),
        pytest.param(
            np.random.default_rng(0).poisson(9000, (300, 400, 1)), id="shot noise of 9000"
        ),
    ],
)
def test_noise_alone_keeps_within_a_third_of_the_grey_range(frame: np.ndarray) -> None:
    low, high = np.percentile(seen(frame), [0.5, 99.5])
    assert 65 < high - low < 1.06 * 255 / 3
    assert (low + high) / 2 == pytest.approx(128, abs=5)


def test_the_levels_keep_their_middle_where_they_are_widened() -> None:
    frame = np.rint(noisy(1000, 30, 128, 128, 1))
    sigma = float(measured_noise(as_tensor(frame)))
    low, high = levels_of(frame)
    assert high - low == pytest.approx(MIN_SPAN * sigma, rel=1e-4)
    assert (low + high) / 2 == pytest.approx(np.percentile(frame, [0.5, 99.5]).mean(), abs=0.1)


def test_a_gradient_keeps_its_contrast() -> None:
    slope = np.linspace(0, 3000, 400)[None, :, None] * np.ones((300, 1, 1))
    expected = np.percentile(slope, [0.5, 99.5])
    np.testing.assert_allclose(levels_of(slope), expected, atol=15)  # a step of the grid is 23
    noise = noisy(500, 20, 300, 400, 1)
    np.testing.assert_allclose(levels_of(slope + noise) - 500, expected, atol=60)


def background_with_cells(unevenness: float) -> np.ndarray:
    """Light of a mean of 2000 with cells, which falls from side to side; its noise is blurred."""
    settings = RenderSettings(full_well=1e6, unevenness=unevenness, debris=0)
    frame = render_frame(settings, seed=3)[0].astype(float)
    smooth = cv2.GaussianBlur(frame, (0, 0), 1.5)
    return (smooth / smooth.mean() * 2000)[:, :, None]


@pytest.mark.parametrize("unevenness", [0.0, 0.3])
@pytest.mark.parametrize(
    "kind", [pytest.param("read", id="read noise"), pytest.param("shot", id="shot noise")]
)
@pytest.mark.parametrize("level", [100.0, 300.0])
def test_the_noise_is_measured_among_cells_and_on_a_slope(
    kind: str, unevenness: float, level: float
) -> None:
    light = background_with_cells(unevenness)
    random = np.random.default_rng(5)
    if kind == "read":
        frame = light + random.normal(0, level, light.shape)
    else:
        gain = level**2 / 2000  # counts per electron, for that noise at the mean
        frame = random.poisson(light / gain) * gain
    assert float(measured_noise(as_tensor(frame))) == pytest.approx(level, rel=0.1)


def test_a_frame_without_noise_has_none() -> None:
    slope = np.arange(400)[None, :, None] * np.full((NOISE_SIDE, 1, 1), 7)
    assert float(measured_noise(as_tensor(slope))) == 0


def test_a_hot_pixel_does_not_move_the_levels() -> None:
    frame = ramp(8, 128, 128, 1)
    hot = frame.copy()
    hot[60, 60] = 65535
    np.testing.assert_allclose(levels_of(hot), levels_of(frame), atol=1)


def test_grey_has_the_levels_of_the_same_frame_as_rgb() -> None:
    for grey in (ramp(12, 90, 70, 1), noisy(900, 40, 90, 70, 1)):
        assert np.array_equal(levels_of(grey), levels_of(np.repeat(grey, 3, axis=2)))


def test_all_channels_share_one_pair_of_levels() -> None:
    frame = ramp(8, 128, 128, 3)
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


def camera(*shape: int) -> torch.Tensor:
    """12-bit noise on a gradient."""
    random = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 3000, shape, generator=random).to(torch.int32)
    return noise + torch.linspace(0, 1000, shape[1]).to(torch.int32)[None, :, None]


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((40, 60, 1), id="grey"),
        pytest.param((40, 60, 3), id="RGB"),
        pytest.param((1, 90, 1), id="one row"),
    ],
)
def test_contrast_is_raised_as_torchvision_does(shape: tuple[int, ...]) -> None:
    image = camera(*shape)
    values = to_8_bit(image.float(), PercentileLevels()(image)).permute(2, 0, 1)
    expected = transforms.adjust_contrast(values.expand(3, -1, -1), CONTRAST)
    prepared = PrepareWholeFrame()(image)
    assert prepared.shape == (1, 3, *shape[:2])
    assert prepared.dtype == torch.uint8
    assert int((prepared[0].int() - expected.int()).abs().max()) <= 1
    assert float(prepared.float().std()) > 1.2 * float(values.float().std())


def test_a_factor_of_1_leaves_the_normalised_frame() -> None:
    image = camera(30, 20, 1)
    values = to_8_bit(image.float(), PercentileLevels()(image))[:, :, 0]
    assert torch.equal(PrepareWholeFrame(1.0)(image)[0, 1], values)


@pytest.mark.parametrize("value", [0, 1, 65535], ids=["black", "one", "saturated"])
def test_a_frame_of_one_value_is_middle_grey(value: int) -> None:
    prepared = PrepareWholeFrame()(torch.full((20, 30, 1), value, dtype=torch.int32))
    assert prepared.unique().tolist() == [128]


@pytest.mark.parametrize("sigma", [2, 40, 1000])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_frame_of_noise_is_an_even_grey(sigma: float, channels: int) -> None:
    camera = np.random.default_rng(0).normal(5000, sigma, (200, 300, channels))
    prepared = PrepareWholeFrame()(torch.from_numpy(np.rint(camera).astype(np.int32)))
    # 255 grey levels are 16 standard deviations of the noise, and contrast is raised.
    assert float(prepared.float().std()) == pytest.approx(CONTRAST * 255 / 16, rel=0.15)
    assert float(prepared.float().mean()) == pytest.approx(128, abs=3)


def test_the_traced_graph_takes_frames_of_any_size() -> None:
    module, buffer = PrepareWholeFrame().eval(), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (camera(97, 330, 1),),
            buffer,
            dynamo=False,
            opset_version=17,
            input_names=["image"],
            output_names=["frame_rgb"],
            dynamic_axes={"image": {0: "h", 1: "w", 2: "c"}, "frame_rgb": {2: "h", 3: "w"}},
        )
    session = onnxruntime.InferenceSession(buffer.getvalue())
    for shape in ((97, 330, 1), (1, 1, 1), (33, 97, 3), (1, 300, 1)):
        (found,) = session.run(None, {"image": camera(*shape).numpy()})
        assert np.array_equal(found, module(camera(*shape)).numpy()), shape
