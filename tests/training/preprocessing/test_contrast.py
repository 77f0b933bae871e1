"""Whole frames, normalised and their contrast raised."""

from __future__ import annotations

import io
import warnings

import numpy as np
import onnxruntime
import pytest
import torch
from torchvision.transforms.v2 import functional as transforms

from training.preprocessing.contrast import CONTRAST, PrepareWholeFrame
from training.preprocessing.normalise import PercentileLevels, to_8_bit


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
