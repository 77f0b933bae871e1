"""Positive phase contrast: from a map of phase delays to the light on the camera.

The object delays light by ``phase`` and absorbs none. In the back focal plane of the objective the
phase plate's ring dims the direct light and shifts it by a quarter wave against the diffracted
light (Zernike, Physica 9, 686, 1942). Because the ring has a width, it also catches light
diffracted at small angles. This is the sole cause of both artefacts of the method: the bright halo
around a cell and the shade-off towards the centre of a large one (Yin, Kanade & Chen, Medical Image
Analysis 16, 1047, 2012). A delay near half a wave or more turns dark into bright, hence the bright
rings in rounded cells. Here the condenser annulus and the ring are replaced by a dot on the axis.
The edges of ring and pupil are Gaussian, since partial coherence leaves no sharp fringes.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

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
