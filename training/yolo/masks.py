"""Masks for training YOLO: a prototype pixel is inside if its centre is.

ultralytics fills polygons with their border and then counts a block of 4 x 4 pixels as inside if
half of it is. That makes every cell 0.9 px wider on each side, and a network trained on such masks
draws its outlines that far outside.
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
"""Maximum number of outline points that are used, of the 1,000 that ultralytics makes."""

ASIDE = 1e-3
"""Shift of outlines in mask pixels, so that no pixel centre lies on an outline: it would belong to
the cells on both sides. Outlines on whole frame pixels, where every fourth edge meets a centre,
move by a quarter of a pixel. Random zoom and shift in training average that out."""


class CentreMasks(Format):  # type: ignore[misc]  # ultralytics ships no types
    """ultralytics' last transform, with masks by pixel centres; cells may overlap."""

    def _format_segments(
        self, instances: Any, cls: npt.NDArray[Any], w: int, h: int
    ) -> tuple[npt.NDArray[Any], Any, npt.NDArray[Any]]:
        """Make masks uint8 ``[N, h / ratio, w / ratio]``; cells and classes pass unchanged."""
        return centre_masks(instances.segments, (h, w), self.mask_ratio), instances, cls


def centre_masks(
    outlines: Sequence[npt.NDArray[Any]], size: tuple[int, int], ratio: int
) -> npt.NDArray[np.uint8]:
    """Rasterise outlines at a coarser resolution.

    Args:
        outlines: ``[P, 2]`` each, (x, y) in pixels; 0 is the left (or upper) edge of the first
            pixel.
        size: (height, width) in pixels.
        ratio: pixels per mask pixel, along each side.

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
