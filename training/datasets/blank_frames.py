"""Synthetic frames without cells: what a camera records when there is no specimen.

A network that has only seen frames with cells finds cells in noise too. So every training uses
these frames, in addition to the background of the annotated frames.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

Plane = npt.NDArray[np.float64]

OFFSET = 100.0
"""Camera value of a pixel without light."""


def blank_frame(
    random: np.random.Generator, height: int, width: int, channels: int
) -> npt.NDArray[np.uint16]:
    """Return an empty frame uint16 ``[H, W, C]`` of a kind chosen at random.

    The kinds are: constant; read noise; shot noise; uneven light with noise; noise with hot pixels;
    blurred blobs of low contrast, as dust and debris far out of focus; specks and clumps of them in
    focus; the texture of a substrate. RGB frames have the tint of a background. Some frames are
    compressed as JPEG.
    """
    kinds: tuple[Callable[[np.random.Generator, int, int], Plane], ...] = (
        _constant,
        _read_noise,
        _shot_noise,
        _gradient,
        _hot_pixels,
        _debris,
        _specks,
        _texture,
    )
    kind = kinds[int(random.integers(len(kinds)))]
    light = kind(random, height, width)[:, :, None]
    if channels == 3:
        light = light * random.uniform(0.75, 1.0, 3)
        if kind is not _constant:
            light = light + random.normal(0, 0.3 * light.std() + 1e-9, (height, width, 3))
    counts = np.clip(np.rint(light + OFFSET), 0, 65535).astype(np.uint16)
    if random.random() < (0.4 if channels == 3 else 0.15):
        counts = _compressed(random, counts)
    return np.asarray(np.broadcast_to(counts, (height, width, channels)).copy())


def blank_slide(random: np.random.Generator, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Return an empty brightfield image of a stained slide, uint8 RGB ``[H, W, 3]``.

    The glass is nearly white, with 255 as the white level, and has a slight tint. Its light is
    even, uneven or spotted by dust far out of focus. The noise is absent, weak, or blurred as
    compression and demosaicing leave it. One in five images is dim, as with a white level set too
    high or a closed shutter.
    """
    kinds: tuple[Callable[[np.random.Generator, int, int], Plane], ...] = (_even, _uneven, _dusty)
    light = kinds[int(random.integers(len(kinds)))](random, height, width)[:, :, None]
    light = light * random.uniform(200, 255) * random.uniform(0.92, 1.0, 3)
    if random.random() < 0.2:
        light = light * random.uniform(0, 0.8)
    if random.random() < 0.7:
        noise = random.normal(0, random.uniform(0.3, 6), (height, width, 3))
        light = light + _blurred(noise, random.uniform(0.2, 1.5))
    return np.clip(np.rint(light), 0, 255).astype(np.uint8)


def _level(random: np.random.Generator) -> float:
    """Draw the background level in counts, from a dark frame to a bright one."""
    return float(np.exp(random.uniform(np.log(20), np.log(20000))))


def _constant(random: np.random.Generator, height: int, width: int) -> Plane:
    return np.full((height, width), _level(random))


def _read_noise(random: np.random.Generator, height: int, width: int) -> Plane:
    noise = random.normal(0, random.uniform(1, 20), (height, width))
    if random.random() < 0.3:  # correlated, as binning, demosaicing and compression leave it
        noise = _blurred(noise, random.uniform(0.5, 1.5))
    return random.uniform(0, 200) + noise


def _shot_noise(random: np.random.Generator, height: int, width: int) -> Plane:
    return random.poisson(_level(random), (height, width)).astype(np.float64)


def _gradient(random: np.random.Generator, height: int, width: int) -> Plane:
    light = _uneven(random, height, width)
    return random.poisson(_level(random) * light).astype(np.float64)


def _hot_pixels(random: np.random.Generator, height: int, width: int) -> Plane:
    frame = _shot_noise(random, height, width)
    count = int(random.integers(1, max(2, height * width // 2000)))
    places = random.integers(0, height, count), random.integers(0, width, count)
    frame[places] = frame.mean() * random.uniform(2, 20, count)
    return frame


def _debris(random: np.random.Generator, height: int, width: int) -> Plane:
    light = _dusty(random, height, width)
    return random.poisson(_level(random) * light).astype(np.float64)


def _specks(random: np.random.Generator, height: int, width: int) -> Plane:
    """Specks in focus, far smaller than a cell, single or in clumps, as from dust and debris."""
    light = np.ones((height, width))
    for _ in range(1 + random.poisson(height * width / random.uniform(40, 120) ** 2)):
        centre = random.uniform(0, (width, height))
        for _ in range(int(random.integers(1, 8))):
            x, y = (centre + random.normal(0, 5, 2)).astype(int)
            shade = (random.uniform(0, 2),)
            cv2.circle(light, (int(x), int(y)), int(random.integers(0, 3)), shade, -1)
    light = _blurred(light, random.uniform(0.5, 1.2)).clip(0.01)
    return random.poisson(_level(random) * light).astype(np.float64)


def _texture(random: np.random.Generator, height: int, width: int) -> Plane:
    """Weak ripples and grain without outlines, stretched to stripes in some frames."""
    across, along = random.uniform(1.5, 6), random.uniform(1.5, 24)
    sizes = (across, along) if random.random() < 0.5 else (along, across)
    grain = cv2.GaussianBlur(random.normal(size=(height, width)), (0, 0), sizes[0], sigmaY=sizes[1])
    light = 1 + random.uniform(0.02, 0.15) * grain / max(float(grain.std()), 1e-9) / 3
    return random.poisson(_level(random) * light.clip(0.01)).astype(np.float64)


def _compressed(
    random: np.random.Generator, counts: npt.NDArray[np.uint16]
) -> npt.NDArray[np.uint16]:
    """Convert ``counts`` ``[H, W, C]`` to 8 bits, as in a JPEG file from a camera."""
    span = max(float(np.ptp(counts)), 1.0)
    values = (
        255 * random.uniform(0.5, 0.9) + (counts - counts.mean()) * random.uniform(2, 40) / span
    )
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(random.integers(20, 95))]
    done, file = cv2.imencode(".jpg", np.clip(np.rint(values), 0, 255).astype(np.uint8), quality)
    if not done:
        raise OSError("OpenCV was built without JPEG; install opencv-python-headless from PyPI.")
    decoded = cv2.imdecode(file, cv2.IMREAD_UNCHANGED)
    return decoded.reshape(counts.shape[0], counts.shape[1], -1).astype(np.uint16)


def _even(random: np.random.Generator, height: int, width: int) -> Plane:
    return np.ones((height, width))


def _uneven(random: np.random.Generator, height: int, width: int) -> Plane:
    """Light of about 1 that falls off from side to side, to the corners, or in slow waves."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    angle, depth = random.uniform(0, 2 * np.pi), random.uniform(0.05, 0.5)
    slope = (x * np.cos(angle) + y * np.sin(angle)) / np.sqrt(2)
    coarse = random.uniform(-1, 1, (int(random.integers(3, 7)), int(random.integers(3, 7))))
    waves = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    shape = (slope, -(x**2 + y**2), waves)[int(random.integers(3))]
    light: Plane = (1 + depth * shape).clip(0.01)
    return light


def _dusty(random: np.random.Generator, height: int, width: int) -> Plane:
    """Light of 1 with bright or dark blobs, too blurred to look like a cell's outline."""
    blobs = np.zeros((height, width))
    for _ in range(int(random.integers(1, 12))):
        centre = (int(random.integers(width)), int(random.integers(height)))
        cv2.circle(blobs, centre, int(random.integers(2, 12)), (random.uniform(-1, 1),), -1)
    blobs = _blurred(blobs, random.uniform(6, 20))
    blobs *= random.uniform(0.02, 0.15) / max(float(np.abs(blobs).max()), 1e-9)
    light: Plane = 1 + blobs
    return light


def _blurred(plane: Plane, sigma: float) -> Plane:
    return np.asarray(cv2.GaussianBlur(plane, (0, 0), sigma), np.float64)
