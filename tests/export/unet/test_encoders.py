"""Every encoder of study S2 exports, for frames of any size."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from export.unet.steps import glioma_network, nuclei_network
from training.unet.network import UNet
from training.unet.settings import ENCODERS, NUCLEI_NETWORKS

FAST = ("MobileNetV2",)

FRAME = np.random.default_rng(0).integers(0, 256, (128, 192), np.uint8)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in FAST else pytest.mark.slow, id=n) for n in ENCODERS],
)
def test_encoder(make_random_unet: Callable[..., UNet], name: str) -> None:
    step = glioma_network("glioma_network", make_random_unet(FRAME, name, noise=7))
    assert {"1x1", "one row", "batch of 2"} < set(step.parity)
    assert max(case["frame_probability"] for case in step.parity.values()) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", NUCLEI_NETWORKS.values())
def test_network_on_tiles(make_random_unet: Callable[..., UNet], name: str) -> None:
    step = nuclei_network(make_random_unet(FRAME, name, width=64, noise=7))
    assert max(case["tile_probabilities"] for case in step.parity.values()) <= 1
