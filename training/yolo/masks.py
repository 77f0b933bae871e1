"""The masks that YOLO learns from: a prototype pixel is inside if its centre is.

ultralytics fills polygons with their border and then rounds a block of 4 x 4 pixels up where half
of it is inside. That makes every cell 0.9 px wider on each side, and a network that has learned
from such masks draws its outlines as far outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from skimage import draw

import training.yolo.network  # noqa: F401  # keeps ultralytics offline

from ultralytics.data.augment import Format  # isort: skip

POINTS = 250
"""Points of an outline that are looked at, at most: of the 1,000 that ultralytics makes."""

ASIDE = 1e-3
"""Mask pixels by which outlines are moved, so that no centre lies on one: it would belong to the
cells on both sides. Outlines on whole frame pixels, where every fourth edge meets a centre, move by
a quarter of a pixel; random zoom and shift in training even that out."""


class CentreMasks(Format):  # type: ignore[misc]  # ultralytics ships no types
    """ultralytics' last transform, with masks by their pixels' centres; cells may overlap."""

    def _format_segments(
        self, instances: Any, cls: npt.NDArray[Any], w: int, h: int
    ) -> tuple[npt.NDArray[Any], Any, npt.NDArray[Any]]:
        """Masks uint8 ``[N, h / ratio, w / ratio]``, the cells and their classes as they came."""
        return centre_masks(instances.segments, (h, w), self.mask_ratio), instances, cls


def centre_masks(
    outlines: Sequence[npt.NDArray[Any]], size: tuple[int, int], ratio: int
) -> npt.NDArray[np.uint8]:
    """Rasterise outlines at a coarser resolution.

    Args:
        outlines: ``[P, 2]`` each, (x, y) in pixels; 0 is the left, or upper, edge of the first.
        size: (height, width) in pixels.
        ratio: pixels per pixel of the masks, along each side.

    Returns:
        uint8 ``[N, height / ratio, width / ratio]``, 1 inside.
    """
    shape = (size[0] // ratio, size[1] // ratio)
    masks = np.zeros((len(outlines), *shape), np.uint8)
    for mask, outline in zip(masks, outlines, strict=True):
        some = np.asarray(outline, np.float64)[:: max(1, len(outline) // POINTS)]
        x, y = (some / ratio - 0.5 + ASIDE).T
        mask[draw.polygon(y, x, shape)] = 1
    return masks
