"""Camera model: turns light into counts, with uneven illumination, shot noise and read noise."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from training.rendered.settings import RenderSettings


def illumination(
    height: int, width: int, unevenness: float, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Smooth background ``[H, W]`` of mean 1: a tilt, a bright off-axis centre, slow waves."""
    y, x = np.meshgrid(np.linspace(-1, 1, 16), np.linspace(-1, 1, 16), indexing="ij")
    tilt, centre = rng.normal(0, 0.3, 2), rng.normal(0, 0.3, 2)
    field = tilt[0] * x + tilt[1] * y - (x - centre[0]) ** 2 - (y - centre[1]) ** 2
    field += 0.6 * cv2.GaussianBlur(rng.standard_normal((16, 16)), (0, 0), 2.5) * 5
    field = (field - field.min()) / np.ptp(field)
    field = 1 - unevenness * (1 - field)
    field = (field / field.mean()).astype(np.float32)
    return np.asarray(cv2.resize(field, (width, height), interpolation=cv2.INTER_CUBIC))


def expose(
    light: npt.NDArray[np.float32], settings: RenderSettings, rng: np.random.Generator
) -> npt.NDArray[np.uint16]:
    """Convert ``light`` to counts ``[H, W]``; 1 stands for the electrons of the background."""
    electrons = rng.poisson(light * (settings.exposure * settings.full_well)).astype(np.float32)
    electrons += settings.read_noise * rng.standard_normal(light.shape, dtype=np.float32)
    highest = 2**settings.bits - 1
    counts = electrons * ((highest - settings.offset) / settings.full_well) + settings.offset
    return np.asarray(np.clip(np.rint(counts), 0, highest).astype(np.uint16))
