"""Convert the pixel sizes that image files tell to micrometres."""

from __future__ import annotations

from cytoserve.settings import MAX_SCALE, MIN_SCALE

_MICROMETRES = {
    "m": 1e6,
    "meter": 1e6,
    "cm": 1e4,
    "mm": 1e3,
    "millimeter": 1e3,
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "um": 1.0,
    "µm": 1.0,
    "nm": 1e-3,
    "nanometer": 1e-3,
    "pm": 1e-6,
    "Å": 1e-4,
    "angstrom": 1e-4,
}


def micrometres(unit: str) -> float | None:
    """Return the micrometres in a unit, as OME and ImageJ write it; None for other units."""
    # ImageJ writes the micro sign as an escape, and some programs write a Greek mu.
    return _MICROMETRES.get(unit.replace("\\u00B5", "µ").replace("\u03bc", "µ"))


def plausible(size_um: float | None) -> float | None:
    """Return a pixel size that a microscope can have, or None."""
    return size_um if size_um is not None and MIN_SCALE <= size_um <= MAX_SCALE else None
