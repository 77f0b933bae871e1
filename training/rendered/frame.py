"""Rendering of one frame: cells and debris, the microscope's optics, the camera."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from training.datasets.annotated import AnnotatedCell
from training.rendered.camera import expose, illumination
from training.rendered.debris import add_debris
from training.rendered.optics import phase_contrast
from training.rendered.scene import fitted, place_cells
from training.rendered.settings import RenderSettings

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
