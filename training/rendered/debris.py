"""Debris in the dish: specks, clumps and an uneven film. None of it is annotated."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from training.rendered.settings import RenderSettings

CRUMBS = (
    # Radius in micrometres, mean number of crumbs per clump, delays in radians.
    (0.4, 5.0, (0.05, 0.5)),
    (0.7, 0.3, (0.2, 1.8)),
)
CLUMP_UM = 1.6
"""Standard deviation of the crumbs about the centre of their clump, in micrometres."""
FILM_DELAY = 0.006
"""Standard deviation of the film's delay, in radians."""
FILM_UM = 1.5
"""Size of the film's grains, in micrometres."""


def add_debris(
    phase: npt.NDArray[np.float32], settings: RenderSettings, rng: np.random.Generator
) -> None:
    """Add debris to ``phase`` ``[H, W]``, in radians."""
    height, width = phase.shape
    area = height * width * settings.pixel_um**2 / 1e4  # in squares of 100 x 100 um
    clumps = rng.uniform(0, (height, width), (rng.poisson(settings.debris * area), 2))
    for size_um, crumbs, delays in CRUMBS:
        counts = rng.poisson(crumbs, len(clumps))
        places = np.repeat(clumps, counts, axis=0)
        places += rng.normal(0, CLUMP_UM / settings.pixel_um, places.shape)
        sigma = size_um / settings.pixel_um
        peaks = rng.uniform(*delays, len(places)) * 2 * np.pi * sigma**2
        specks = np.zeros_like(phase)
        rows, columns = places.astype(int).T
        np.add.at(specks, (rows % height, columns % width), peaks.astype(np.float32))
        phase += cv2.GaussianBlur(specks, (0, 0), max(sigma, 0.5))
    phase += _film(height, width, settings.pixel_um, rng)


def _film(
    height: int, width: int, pixel_um: float, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Uneven coat of protein on the glass ``[H, W]``, drawn at half the resolution."""
    size = (height + 1) // 2, (width + 1) // 2
    sigma = max(FILM_UM / pixel_um / 2, 0.5)
    film = cv2.GaussianBlur(rng.standard_normal(size, dtype=np.float32), (0, 0), sigma)
    film = np.asarray(film * np.float32(FILM_DELAY * 2 * np.sqrt(np.pi) * sigma))
    return np.asarray(cv2.resize(film, (width, height)))
