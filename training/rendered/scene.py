"""Placement of the cells: the requested number, with no more overlap than allowed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.datasets.annotated import AnnotatedCell
from training.rendered.settings import ROUND, SPREAD, RenderSettings
from training.rendered.shapes import Shape, draw_shape

TRIES, ROUNDS = 128, 200
"""Number of random places checked at once for a cell, and number of rounds before the frame counts
as full."""
SAMPLES = 24
"""Number of pixels of a cell that are checked at each of these places."""
COVERAGE = 0.45
"""Largest share of the frame that cells may cover under ``shrink_to_fit``."""
SMALLEST_DIAMETER = 6.0


class CrowdedFrameError(ValueError):
    """Raised if the requested cells do not fit into the frame."""


@dataclass
class _Ground:
    """Records which pixels are taken, and how much of each cell is shared. Memory: one frame."""

    owner: npt.NDArray[np.int32]  # [H, W]; 0 is free, i the first cell there
    shared: npt.NDArray[np.bool_]  # [H, W]; True where two cells or more lie
    areas: list[int]
    overlaps: list[int]
    max_overlap: float

    def seems_free(
        self, mask: npt.NDArray[np.bool_], corners: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.bool_]:
        """Check which ``corners`` ``[T, 2]`` (y, x) may be free, by a few of the mask's pixels."""
        pixels = np.argwhere(mask)
        pixels = pixels[:: max(1, len(pixels) // SAMPLES)]
        places = corners[:, None, :] + pixels[None]  # T, S, 2
        last = np.array(self.owner.shape) - 1
        inside = ((places >= 0) & (places <= last)).all(axis=-1)
        y, x = np.clip(places, 0, last).transpose(2, 0, 1)
        taken = (self.owner[y, x] > 0) & inside
        free: npt.NDArray[np.bool_] = taken.sum(axis=1) <= self.max_overlap * inside.sum(axis=1)
        return free

    def take(self, mask: npt.NDArray[np.bool_], x: int, y: int) -> bool:
        """Put a cell's visible mask at ``(x, y)`` unless an overlap becomes too large."""
        window = slice(y, y + mask.shape[0]), slice(x, x + mask.shape[1])
        owner, shared = self.owner[window], self.shared[window]
        taken = mask & (owner > 0)
        overlap, area = int(np.count_nonzero(taken)), int(np.count_nonzero(mask))
        if overlap > self.max_overlap * area:
            return False
        others, pixels = np.unique(owner[taken & ~shared], return_counts=True)
        if any(
            self.overlaps[i - 1] + p > self.max_overlap * self.areas[i - 1]
            for i, p in zip(others, pixels, strict=True)
        ):
            return False
        for i, p in zip(others, pixels, strict=True):
            self.overlaps[i - 1] += int(p)
        self.areas.append(area)
        self.overlaps.append(overlap)
        shared |= taken
        owner[mask & (owner == 0)] = len(self.areas)
        return True


def fitted(settings: RenderSettings) -> RenderSettings:
    """Return ``settings``, with smaller cells if they allow it and the frame requires it."""
    if not settings.shrink_to_fit or not settings.cells:
        return settings
    room = COVERAGE * settings.height * settings.width / settings.cells
    diameter = max(SMALLEST_DIAMETER, 2 * float(np.sqrt(room / np.pi)))
    return settings.model_copy(update={"mean_diameter": min(settings.mean_diameter, diameter)})


def place_cells(
    settings: RenderSettings, phase: npt.NDArray[np.float32], margin: int, rng: np.random.Generator
) -> tuple[AnnotatedCell, ...]:
    """Draw the cells into ``phase``, in radians: the frame with ``margin`` pixels around it.

    Where cells overlap, their delays add up. Raises CrowdedFrameError.
    """
    classes = np.where(rng.random(settings.cells) < settings.round_fraction, ROUND, SPREAD)
    shapes = [draw_shape(int(class_id), settings.pixel_um, rng) for class_id in classes]
    frame = settings.height, settings.width
    ground = _Ground(
        np.zeros(frame, np.int32), np.zeros(frame, np.bool_), [], [], settings.max_overlap
    )
    cells: list[AnnotatedCell] = []
    # Largest first, since they are the hardest to place.
    for shape in sorted(shapes, key=lambda shape: -shape.mask.size):
        placed = _place(shape, ground, rng)
        if placed is None:
            raise CrowdedFrameError(
                f"only the {len(cells)} largest of {settings.cells} cells with a mean diameter of "
                f"{settings.mean_diameter:g} pixels fit into {settings.width} x {settings.height} "
                f"pixels at an overlap of {settings.max_overlap:g}; ask for fewer or smaller "
                "cells, a larger frame or shrink_to_fit"
            )
        (x, y), cell = placed
        cells.append(cell)
        _add(phase, shape.phase, x + margin, y + margin)
    return tuple(cells)


def _place(
    shape: Shape, ground: _Ground, rng: np.random.Generator
) -> tuple[tuple[int, int], AnnotatedCell] | None:
    """Find a corner for the shape's patch, maybe outside the frame, and the cell visible in it."""
    height, width = ground.owner.shape
    rows, columns = shape.mask.shape
    for _ in range(ROUNDS):
        middles = rng.integers(0, (height, width), (TRIES, 2))
        corners = middles - (rows // 2, columns // 2)
        for y, x in corners[ground.seems_free(shape.mask, corners)].tolist():
            top, left = max(0, -y), max(0, -x)
            seen = shape.mask[top : height - y, left : width - x]
            if seen.any() and ground.take(seen, x + left, y + top):
                return (x, y), AnnotatedCell.cut(seen, shape.class_id, x=x + left, y=y + top)
    return None


def _add(phase: npt.NDArray[np.float32], patch: npt.NDArray[np.float32], x: int, y: int) -> None:
    """Add ``patch`` to ``phase`` at ``(x, y)``, clipped at the borders."""
    top, left = max(0, -y), max(0, -x)
    patch = patch[top : phase.shape[0] - y, left : phase.shape[1] - x]
    phase[y + top : y + top + patch.shape[0], x + left : x + left + patch.shape[1]] += patch
