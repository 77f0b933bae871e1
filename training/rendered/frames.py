"""Rendered frames: optics, debris, camera, all of them together, and data sets of such frames.

**Optics.** The object delays light by ``phase`` and absorbs none. In the back focal plane of the
objective the phase plate's ring dims the direct light and shifts it by a quarter wave against the
diffracted light (Zernike, Physica 9, 686, 1942). Because the ring has a width, it also catches
light diffracted at small angles. This is the sole cause of both artefacts of the method: the bright
halo around a cell and the shade-off towards the centre of a large one (Yin, Kanade & Chen, Medical
Image Analysis 16, 1047, 2012). A delay near half a wave or more turns dark into bright, hence the
bright rings in rounded cells. Here the condenser annulus and the ring are replaced by a dot on the
axis. The edges of ring and pupil are Gaussian, since partial coherence leaves no sharp fringes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from cytoserve.files import write_atomically
from training.datasets.annotated import AnnotatedCell, rle_from_cell
from training.rendered.cells import fitted, place_cells
from training.rendered.settings import CLASS_NAMES, RenderSettings

WAVELENGTH_UM = 0.55
NUMERICAL_APERTURE = 0.3
DIRECT_AMPLITUDE = 0.5
"""Share of the direct light's amplitude that the ring transmits: it absorbs 75 % of the
intensity."""
HALO_UM = 3.0
"""Reach of halo and shade-off (standard deviation) in micrometres: the inverse of the ring's
width."""


def phase_contrast(
    phase: npt.NDArray[np.float32], pixel_um: float, defocus_um: float
) -> npt.NDArray[np.float32]:
    """Compute the intensity ``[H, W]``, 1 on empty background, of ``phase`` ``[H, W]`` in radians.

    The frame is assumed to repeat beyond its borders, so add a margin and crop it afterwards.
    """
    height, width = phase.shape
    real, imaginary = cv2.polarToCart(np.ones_like(phase), phase)
    spectrum = cv2.dft(cv2.merge([real, imaginary])).view(np.complex64)[..., 0]
    spectrum *= _transfer(height, width, pixel_um, defocus_um)
    field = cv2.dft(
        spectrum.view(np.float32).reshape(height, width, 2),
        flags=cv2.DFT_INVERSE | cv2.DFT_SCALE,
    )
    intensity: npt.NDArray[np.float32] = np.square(field).sum(axis=-1)
    return intensity / np.float32(DIRECT_AMPLITUDE**2)


def _transfer(
    height: int, width: int, pixel_um: float, defocus_um: float
) -> npt.NDArray[np.complex64]:
    """Transfer function ``[H, W]`` of pupil, defocus and phase plate, per spatial frequency."""
    squares = [np.fft.fftfreq(side, pixel_um) ** 2 for side in (height, width)]
    cutoff = NUMERICAL_APERTURE / WAVELENGTH_UM
    exponents = [
        square * (-0.5 / cutoff**2 + 1j * np.pi * WAVELENGTH_UM * defocus_um) for square in squares
    ]
    pupil = np.multiply.outer(*[np.exp(e).astype(np.complex64) for e in exponents])
    ring = np.multiply.outer(
        *[np.exp(-2 * (np.pi * HALO_UM) ** 2 * s).astype(np.float32) for s in squares]
    )
    return np.asarray(pupil * (1 + np.complex64(-1j * DIRECT_AMPLITUDE - 1) * ring))


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


MARGIN_UM = 12.0
"""Margin in micrometres that is rendered around the frame and cropped: about the reach of halo and
defocus."""


def render_frame(
    settings: RenderSettings, seed: int | Sequence[int]
) -> tuple[npt.NDArray[np.uint16], tuple[AnnotatedCell, ...]]:
    """Render the frame for ``seed``: uint16 ``[H, W]`` and its cells, largest first.

    The same settings and seed give the same bytes. Raises CrowdedFrameError if the cells do not
    fit.
    """
    rng = np.random.default_rng(seed)
    settings = fitted(settings)
    margin = int(np.ceil(MARGIN_UM / settings.pixel_um))
    height, width = settings.height, settings.width
    phase = np.zeros(
        tuple(cv2.getOptimalDFTSize(side + 2 * margin) for side in (height, width)), np.float32
    )
    cells = place_cells(settings, phase, margin, rng)
    add_debris(phase, settings, rng)
    light = phase_contrast(phase, settings.pixel_um, rng.normal(0, settings.defocus_um))
    light = light[margin : margin + height, margin : margin + width]
    light *= illumination(height, width, settings.unevenness, rng)
    return expose(light, settings, rng), cells


def render_dataset(
    directory: Path,
    *,
    frames: int,
    settings: RenderSettings,
    seed: int,
    prefix: str = "frame",
    on_frame: Callable[[], None] = lambda: None,
) -> None:
    """Write ``images/<prefix>_0000.png`` ... and ``instances.json`` into ``directory``.

    Masks are RLE, exact and with their overlap. Frame i is ``render_frame(settings, (seed, i))``,
    regardless of the number of frames. ``instances.json`` is replaced last; it records settings and
    seed. ``on_frame`` is called after each frame.

    Raises CrowdedFrameError if the cells do not fit, OSError if a file cannot be written.
    """
    (directory / "images").mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(frames):
        frame, cells = render_frame(settings, (seed, index))
        image = {
            "id": index + 1,
            "file_name": f"{prefix}_{index:04d}.png",
            "height": settings.height,
            "width": settings.width,
        }
        file = directory / "images" / str(image["file_name"])
        if not cv2.imwrite(str(file), frame):
            raise OSError(f"{file}: cannot be written; check the folder and the free space")
        images.append(image)
        for cell in cells:
            annotations.append({"id": len(annotations) + 1, **_annotation(cell, image)})
        on_frame()
    instances = {
        "info": {
            "description": "Rendered phase-contrast frames (python -m training.rendered)",
            "pixel_size_um": settings.pixel_um,
            "settings": settings.model_dump(),
            "seed": seed,
        },
        "images": images,
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(CLASS_NAMES)],
        "annotations": annotations,
    }
    write_atomically(directory / "instances.json", json.dumps(instances).encode())


def _annotation(cell: AnnotatedCell, image: dict[str, Any]) -> dict[str, Any]:
    height, width = cell.mask.shape
    return {
        "image_id": image["id"],
        "category_id": cell.class_id + 1,
        "bbox": [cell.x, cell.y, width, height],
        "area": cell.area,
        "iscrowd": 0,
        "segmentation": rle_from_cell(cell, image["height"], image["width"]),
    }
