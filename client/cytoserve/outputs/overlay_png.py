"""The overlay as a file."""

from __future__ import annotations

from typing import Any

import cv2
from numpy.typing import NDArray

from cytoserve.cells import Cells
from cytoserve.foreground import Foreground
from cytoserve.outputs.source import Source
from cytoserve.overlay import Picture, draw_foreground, draw_overlay


def overlay_png(
    frame: NDArray[Any], result: Cells | Foreground, source: Source, numbers: bool = False
) -> bytes:
    """Encode the overlay: PNG, 8-bit RGB, with a scale bar if the pixel size is known.

    ``numbers`` is as for :func:`cytoserve.overlay.draw_overlay`.
    """
    if isinstance(result, Cells):
        return _png(draw_overlay(frame, result, numbers, source.pixel_size_um))
    return _png(draw_foreground(frame, result, numbers, source.pixel_size_um))


def _png(picture: Picture) -> bytes:
    done, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if not done:
        raise OSError("OpenCV could not encode the overlay as PNG.")
    return data.tobytes()
