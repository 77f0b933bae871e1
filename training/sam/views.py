"""Random views of a frame, to train a network from random weights on few frames.

Flips and quarter turns show ten frames in only eighty ways. A view turns a frame by any angle,
zooms, stretches and moves it, and changes its light, so that no two are the same.
"""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.datasets.annotated import AnnotatedCell
from training.sam.frames import SamFrame

ZOOM = (0.75, 1.4)
"""Smallest and largest zoom factor of a view."""
STRETCH = 0.12
"""Maximum stretch of one axis relative to the other, as a logarithm."""
MOVE = 0.15
"""Maximum distance of a view's centre from that of the frame, in sides of the frame."""
CONTRAST = (0.7, 1.35)
"""Smallest and largest factor by which differences from the mean grey are multiplied."""
BRIGHTNESS = 25.0
"""Maximum value that is added to every pixel, on a scale of 255."""
NOISE = 8.0
"""Maximum standard deviation of added noise, on a scale of 255."""
MIN_SHARE = 0.25
"""Minimum share of a cell that a view must keep; otherwise the cell is dropped."""

Affine = npt.NDArray[np.float64]
"""Affine map ``[2, 3]`` from a point (x, y) of the frame to the view."""


def draw_view(frame: SamFrame, generator: torch.Generator) -> SamFrame:
    """Draw a random view of ``frame``, of the same size.

    Beyond the frame, a view shows the frame's mean grey. Cells keep their order. Of a cell that the
    view cuts, the visible part remains. If no cell would remain, the view is the frame itself in
    different light.
    """
    height, width = frame.pixels.shape[1:]
    view = _draw_affine(width, height, generator)
    scale = np.array(frame.scale)
    in_frame = np.concatenate(
        [view[:, :2] * scale / scale[:, None], view[:, 2:] / scale[:, None]], axis=1
    )
    cells = tuple(seen for c in frame.cells if (seen := _seen(c, in_frame, frame.size)) is not None)
    if not cells:
        return replace(frame, pixels=_draw_light(frame.pixels, generator))
    grey = frame.pixels.float().mean(dim=(1, 2)).tolist()
    planes = np.ascontiguousarray(frame.pixels.permute(1, 2, 0).numpy())
    moved = cv2.warpAffine(
        planes,
        _of_pixel_centres(view),
        (width, height),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=grey,
    )
    pixels = torch.from_numpy(moved.reshape(height, width, -1)).permute(2, 0, 1)
    return replace(frame, pixels=_draw_light(pixels, generator), cells=cells)


def _draw_affine(width: int, height: int, generator: torch.Generator) -> Affine:
    angle, zoom, stretch, x, y, mirrored = torch.rand(6, generator=generator).tolist()
    angle *= 2 * math.pi
    turned = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    along = math.exp(STRETCH * (2 * stretch - 1))
    factor = ZOOM[0] * (ZOOM[1] / ZOOM[0]) ** zoom
    linear = factor * turned @ np.diag([along * (-1 if mirrored < 0.5 else 1), 1 / along])
    size = np.array([width, height])
    looked_at = size * (0.5 + MOVE * (2 * np.array([x, y]) - 1))
    return np.column_stack([linear, size / 2 - linear @ looked_at])


def _of_pixel_centres(affine: Affine) -> Affine:
    """Convert a map to coordinates that count pixel centres, as in OpenCV, instead of edges."""
    half = np.array([0.5, 0.5])
    return np.column_stack([affine[:, :2], affine[:, 2] + affine[:, :2] @ half - half])


def _seen(cell: AnnotatedCell, affine: Affine, size: tuple[int, int]) -> AnnotatedCell | None:
    """Return the part of a cell that a view shows. None if it is too small."""
    x0, y0, x1, y1 = cell.box
    corners = np.array([(x0, y0), (x1, y0), (x0, y1), (x1, y1)]) @ affine[:, :2].T + affine[:, 2]
    low = np.maximum(np.floor(corners.min(axis=0)), 0).astype(int)
    high = np.minimum(np.ceil(corners.max(axis=0)), size[::-1]).astype(int)
    if np.any(high <= low):
        return None
    from_patch = affine.copy()
    from_patch[:, 2] += affine[:, :2] @ (x0, y0) - low
    mask = cv2.warpAffine(
        cell.mask.astype(np.uint8),
        _of_pixel_centres(from_patch),
        tuple(int(side) for side in high - low),
        flags=cv2.INTER_NEAREST,
    ).astype(bool)
    whole = cell.area * abs(float(np.linalg.det(affine[:, :2])))
    if not mask.any() or np.count_nonzero(mask) < MIN_SHARE * whole:
        return None
    return AnnotatedCell.cut(mask, cell.class_id, x=int(low[0]), y=int(low[1]))


def _draw_light(pixels: Tensor, generator: torch.Generator) -> Tensor:
    contrast, brightness, noise = torch.rand(3, generator=generator).tolist()
    image = pixels.float()
    mean = image.mean()
    factor = CONTRAST[0] * (CONTRAST[1] / CONTRAST[0]) ** contrast
    image = (image - mean) * factor + mean + BRIGHTNESS * (2 * brightness - 1)
    image += torch.randn(image.shape, generator=generator) * (NOISE * noise)
    changed: Tensor = image.round().clamp(0, 255).to(torch.uint8)
    return changed
