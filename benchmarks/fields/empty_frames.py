"""Frames without a cell, in which no cell may be found.

`empty_frames` makes them one after the other from a seed. The code is separate from
`training.datasets.blank_frames`, so that a network is not judged by the code that trained it.

Background windows are cut from real images. Many cells of those data sets are not annotated, so
anything that stands out like a cell is left out. The frames in `NOT_EMPTY` are left out too: a look
at their windows found cells. Look again if windows change.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.fields.windows import background, largest_rectangles
from training.datasets.annotated import AnnotatedDataset
from training.datasets.readers import read_annotated
from training.rendered import RenderSettings, render_frame

COUNT = 200
"""Number of frames in a whole list."""

SOURCES = ("bccd", "t98g", "dsb2018")
"""Folders of annotated data sets, inside the data folder, that windows are cut from."""

MAX_WINDOWS = 60
"""Maximum background windows in a whole list, the same number per source if there are enough."""

MIN_SIDE = 96
"""Minimum width and height of a background window in pixels."""

MARGIN = 12
"""Distance in pixels between a background window and any annotated cell."""

WINDOWS_PER_FRAME = 2

NOT_EMPTY = {
    "bccd": {"BloodImage_00038", "BloodImage_00043", "BloodImage_00092"},
    "t98g": {"set35"},
    "dsb2018": {
        # Pale cells around their nuclei, of which only the nuclei are annotated.
        *("08275a5b1c2dfcd7", "091944f1d2611c91", "1b44d22643830cd4", "3594684b9ea0e161"),
        *("4217e25defac94ff", "54793624413c7d0e", "8d05fb18ee0cda10", "8f94a80b95a881d0"),
        "c395870ad9f5a3ae",
        # Stained tissue with nuclei that are not annotated.
        *("1ec74a26e772966d", "442c4eb0185698fe", "5ef4442e5b8b0b4c", "708eb41a3fc8f2b6"),
        *("a0325cb7aa59e9c0", "a4c44fc5f5bf213e", "ae570a6769614828", "af6b6173c59450bc"),
        # Dim nuclei, or the glow of a near one.
        *("0acd2c223d300ea5", "6c85029f850d3927", "ac782d2cad7f515c", "b98681c74842c405"),
        *("6fb82031f7fc5f4f", "da31f2aa8601afec", "21408476af050633"),
    },
}
"""Source -> frames whose background windows show cells, as a look at them found."""

SIZES = ((640, 640), (480, 640), (512, 512), (600, 800))
"""Height and width in pixels of the frames that are made, one after the other."""

Image = npt.NDArray[Any]
Kind = type[np.uint8] | type[np.uint16]
Random = np.random.Generator


@dataclass(frozen=True, eq=False)
class EmptyFrame:
    """A frame without a cell."""

    name: str
    """Kind, peculiarity and number of the frame; unique in a list."""
    kind: str
    """A key of `KINDS`, or ``background window``."""
    image: Image
    """uint8 or uint16, ``[H, W]`` or ``[H, W, 3]`` RGB."""


def empty_frames(seed: int, data: Path | None = None, count: int = COUNT) -> Iterator[EmptyFrame]:
    """Yield ``count`` frames: the kinds one after the other, then background windows.

    The same arguments give the same frames. Without windows, there are more of the other kinds.

    Args:
        seed: seed of everything drawn.
        data: folder that holds some of `SOURCES`; None, or one that holds none, gives no window.
        count: number of frames, windows included; windows are at most `MAX_WINDOWS` of `COUNT`.
    """
    windows = chosen_windows(data, count * MAX_WINDOWS // COUNT) if data else []
    for number in range(count - len(windows)):
        kind = list(KINDS)[number % len(KINDS)]
        nth = number // len(KINDS)
        rng = np.random.default_rng((seed, number))
        what, image = KINDS[kind](rng, nth, *SIZES[nth % len(SIZES)])
        yield EmptyFrame(f"{kind}, {what}, {nth}", kind, image)
    yield from windows


# -- Kinds ----------------------------------------------------------------------------------------
# Each function takes the random numbers, the number of earlier frames of its kind, and height and
# width in pixels. It returns the frame's peculiarity and the frame.


def rendered(rng: Random, nth: int, height: int, width: int) -> tuple[str, Image]:
    """Render a phase-contrast frame with debris, but without cells."""
    debris = (4.0, 0.0, 12.0, 30.0)[nth % 4]
    settings = RenderSettings(
        height=height,
        width=width,
        cells=0,
        debris=debris,
        bits=(16, 12)[nth % 2],
        unevenness=float(rng.uniform(0, 0.5)),
        exposure=float(rng.uniform(0.05, 0.8)),
        defocus_um=(1.5, 6.0)[nth // 4 % 2],
    )
    image, _ = render_frame(settings, int(rng.integers(2**32)))
    return f"debris {debris:g}", image


def constant(rng: Random, nth: int, height: int, width: int) -> tuple[str, Image]:
    """Return a frame with the same value in every pixel."""
    kind, value = CONSTANTS[nth % len(CONSTANTS)]
    colour = nth % 5 == 4  # RGB
    shape = (height, width, 3) if colour else (height, width)
    what = f"{kind.__name__} {value}{' RGB' if colour else ''}"
    return what, np.full(shape, value, kind)


def read_noise(rng: Random, nth: int, height: int, width: int) -> tuple[str, Image]:
    """Draw normal noise about a camera's offset, as in the dark."""
    sigma = (0.5, 1.0, 2.0, 5.0, 20.0)[nth % 5]
    kind: Kind = np.uint8 if nth % 3 == 1 else np.uint16
    offset = 20 if kind is np.uint8 else 100
    light = offset + rng.normal(0, sigma, (height, width))
    return f"{kind.__name__} sigma {sigma:g}", _counts(light, kind)


def shot_noise(rng: Random, nth: int, height: int, width: int) -> tuple[str, Image]:
    """Draw the photons of an even background."""
    mean = (0.1, 1.0, 5.0, 20.0, 100.0, 1000.0, 10000.0)[nth % 7]
    kind: Kind = np.uint8 if mean <= 100 and nth % 2 else np.uint16
    offset = 0 if kind is np.uint8 else 100
    light = offset + rng.poisson(mean, (height, width))
    return f"{kind.__name__} mean {mean:g}", _counts(light, kind)


def gradient(rng: Random, nth: int, height: int, width: int) -> tuple[str, Image]:
    """Draw uneven light with shot noise: alternately a slope and a field with darker corners."""
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    drop = float(rng.uniform(0.1, 0.7))  # from the brightest to the darkest pixel
    angle = rng.uniform(0, 2 * np.pi)
    linear = nth % 2 == 0
    shape = x * np.cos(angle) + y * np.sin(angle) if linear else -(np.hypot(x, y) ** 2)
    shape = (shape - shape.min()) / np.ptp(shape)
    mean = (50.0, 500.0, 5000.0)[nth % 3]
    light = 100 + rng.poisson(mean * (1 - drop * (1 - shape)))
    return f"{'linear' if linear else 'vignetting'} {drop:.0%}", _counts(light, np.uint16)


def hot_pixels(rng: Random, nth: int, height: int, width: int) -> tuple[str, Image]:
    """Draw read noise with single pixels far above it."""
    share = (1e-5, 1e-4, 1e-3)[nth % 3]
    light = 100 + rng.normal(0, 3, (height, width))
    hot = rng.random((height, width)) < share
    hot[rng.integers(height), rng.integers(width)] = True  # at least one
    light[hot] = rng.uniform(300, 65535, np.count_nonzero(hot))
    return f"{np.count_nonzero(hot)} pixels", _counts(light, np.uint16)


def defocused_debris(rng: Random, nth: int, height: int, width: int) -> tuple[str, Image]:
    """Draw dark and bright blobs of low contrast without an edge: dust far out of focus."""
    contrast = (0.01, 0.02, 0.04)[nth % 3]
    blobs = np.zeros((height, width), np.float32)
    for _ in range(int(rng.integers(3, 12))):
        dot = np.zeros_like(blobs)
        dot[rng.integers(height), rng.integers(width)] = rng.choice((-1, 1))
        blob = np.asarray(cv2.GaussianBlur(dot, (0, 0), float(rng.uniform(12, 40))))
        blobs += blob / np.abs(blob).max()
    mean = (200.0, 2000.0, 20000.0)[nth // 3 % 3]
    light = 100 + rng.poisson(np.clip(mean * (1 + contrast * blobs), 0, None))
    return f"contrast {contrast:.0%}", _counts(light, np.uint16)


CONSTANTS: tuple[tuple[Kind, int], ...] = (
    (np.uint8, 0),
    (np.uint16, 0),
    (np.uint8, 255),
    (np.uint16, 65535),
    (np.uint8, 1),
    (np.uint16, 100),
    (np.uint8, 37),
    (np.uint16, 2000),
    (np.uint8, 128),
    (np.uint16, 30000),
    (np.uint8, 200),
    (np.uint16, 4095),
)
"""Type and value of the constant frames, one after the other."""

KINDS: dict[str, Callable[[Random, int, int, int], tuple[str, Image]]] = {
    "rendered": rendered,
    "constant": constant,
    "read noise": read_noise,
    "shot noise": shot_noise,
    "gradient": gradient,
    "hot pixels": hot_pixels,
    "defocused debris": defocused_debris,
}
"""Kind -> function that makes a frame of it."""

WINDOW = "background window"


def _counts(light: npt.NDArray[Any], kind: Kind) -> Image:
    """Round light to whole counts and clip it to the range of the type."""
    return np.asarray(np.clip(np.rint(light), 0, np.iinfo(kind).max).astype(kind))


# -- Windows of real images -----------------------------------------------------------------------


def chosen_windows(data: Path, most: int) -> list[EmptyFrame]:
    """Return the first windows of every source in ``data``, at most ``most`` in all.

    Sources share the number equally. If one has too few, the others give more.

    Raises:
        AnnotationError: a source exists and cannot be read.
    """
    sources = [name for name in SOURCES if (data / name).is_dir()]
    found = {name: list(islice(_windows_of(data / name), most)) for name in sources}
    taken: list[EmptyFrame] = []
    for index, name in enumerate(sorted(sources, key=lambda name: len(found[name]))):
        taken += found[name][: (most - len(taken)) // (len(sources) - index)]
    return taken


def _windows_of(folder: Path) -> Iterator[EmptyFrame]:
    return background_windows(read_annotated(folder), folder.name, NOT_EMPTY[folder.name])


def background_windows(
    dataset: AnnotatedDataset, source: str, not_empty: Collection[str] = ()
) -> Iterator[EmptyFrame]:
    """Yield the largest windows of every frame that keep `MARGIN` pixels from cells.

    Args:
        dataset: annotated frames.
        source: first word of the windows' names.
        not_empty: names of frames to leave out.
    """
    for frame in dataset.frames:
        if frame.name in not_empty:
            continue
        image = frame.read()
        free = background(frame, image, MARGIN)
        for window in largest_rectangles(free, MIN_SIDE, WINDOWS_PER_FRAME):
            place = f"{window.width} x {window.height} at ({window.x}, {window.y})"
            name = f"{WINDOW}, {source}, {frame.name}, {place}"
            yield EmptyFrame(name, WINDOW, image[window.rows, window.columns].copy())
