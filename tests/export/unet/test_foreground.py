"""Masks by the rule of the client, and resizing by that of torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from cytoserve.foreground import foreground_mask
from export.graphs.resize import resize
from export.unet import steps as foreground_steps
from export.unet.networks import Foreground


def test_every_threshold_cuts_where_the_client_says() -> None:
    levels = np.arange(256, dtype=np.uint8)[None]
    for threshold in np.concatenate([np.arange(256) / 255, np.linspace(0, 1, 301)]):
        value = torch.tensor([threshold], dtype=torch.float32)
        probability, mask = Foreground()(torch.from_numpy(levels)[None], value)
        np.testing.assert_array_equal(probability.numpy(), levels)
        np.testing.assert_array_equal(mask.numpy(), foreground_mask(levels, threshold))


def test_the_graph_answers_as_the_module_does() -> None:
    step = foreground_steps.foreground()
    assert {figure for case in step.parity.values() for figure in case.values()} == {0.0}


@pytest.mark.parametrize(
    ("source", "target"),
    [
        pytest.param((97, 130), (200, 301), id="larger"),
        pytest.param((97, 130), (50, 31), id="smaller"),
        pytest.param((300, 7), (20, 30), id="smaller and larger"),
        pytest.param((1, 1), (5, 4), id="one pixel"),
    ],
)
def test_resize_is_that_of_torch(source: tuple[int, int], target: tuple[int, int]) -> None:
    images = torch.rand((2, 3, *source), generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.interpolate(images, target, mode="bilinear", antialias=True)
    answer = resize(images, *(torch.tensor(side) for side in target))
    torch.testing.assert_close(answer, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("target", [(300, 1), (10, 1), (1, 300)])
def test_resize_to_one_pixel_is_that_of_pillow(target: tuple[int, int]) -> None:
    image = np.random.default_rng(0).random((160, 200), np.float32)
    height, width = target
    expected = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    answer = resize(torch.from_numpy(image), torch.tensor(height), torch.tensor(width))
    np.testing.assert_allclose(answer.numpy(), np.asarray(expected), atol=1e-5)
