"""The cells of a rendered frame: how each is drawn, and where they are placed.

There are two kinds of cell. Each has an outline, and delays light by its thickness. As many as
requested are placed, with no more overlap than allowed.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from training.datasets.annotated import AnnotatedCell
from training.rendered.settings import CELL_DIAMETER_UM, ROUND, SPREAD, RenderSettings

Floats = npt.NDArray[np.float32]
Points = npt.NDArray[np.float64]

OUTLINE_POINTS = 192
SPREAD_SIZE, ROUND_SIZE = 1.17, 0.62
"""Diameter per class, in mean diameters. With one third round cells the mean is 1."""
ROUND_DELAY = (2.3, 5.0)
"""Range of the delay in the centre of a round cell of mean size, in radians."""
BORDER = 2
"""Number of empty pixels around a shape's mask."""


@dataclass(frozen=True)
class Shape:
    """A cell before placement: mask and phase patch of equal size."""

    mask: npt.NDArray[np.bool_]
    """Mask ``[h, w]``."""
    phase: Floats
    """Phase delay ``[h, w]`` in radians; 0 outside the mask."""
    class_id: int


def draw_shape(class_id: int, pixel_um: float, rng: np.random.Generator) -> Shape:
    """Draw a cell of the class, with random size and orientation."""
    if class_id == ROUND:
        return _draw_round(pixel_um, rng)
    return _draw_spread(pixel_um, rng)


def _draw_spread(pixel_um: float, rng: np.random.Generator) -> Shape:
    """Draw a thin cell with two to five tips, thickest around its nucleus."""
    mask = _filled(_spread_outline(rng), SPREAD_SIZE * _diameter(rng) / pixel_um)
    depth = cv2.distanceTransform(mask, cv2.DIST_L2, 3) * pixel_um  # distance to the outline, um
    middle = _blurred(np.minimum(depth / 6.5, 1), 2.0, pixel_um)
    phase = rng.uniform(0.12, 0.35) * (1 - np.exp(-depth / 0.8))  # the lamella
    phase += rng.uniform(0.05, 0.3) * np.exp(-(((depth - 0.8) / 0.7) ** 2))  # its ruffled edge
    phase += rng.uniform(0.15, 0.75) * middle**2  # the body
    phase += _nucleus(mask, depth, pixel_um, rng)
    granular = rng.uniform(0, 1)
    for where, size, count, delays in (
        (middle > 0.45, 0.4, 25, (0.2, 0.8)),
        (middle > 0.3, 0.7, 1.5, (0.4, 1.6)),
        (depth > 0.5, 0.35, 15, (0.1, 0.6)),
    ):
        phase += _granules(where, size, rng.poisson(granular * count), delays, pixel_um, rng)
    phase += _texture(mask.shape, 0.03, 0.5, pixel_um, rng)
    phase += _texture(mask.shape, 0.07, 2.0, pixel_um, rng)
    return Shape(mask.astype(bool), _within(phase, depth), SPREAD)


def _draw_round(pixel_um: float, rng: np.random.Generator) -> Shape:
    """Draw a rounded cell: almost a sphere, several times thicker than a spread one."""
    diameter = ROUND_SIZE * _diameter(rng)
    mask = _filled(_round_outline(rng), diameter / pixel_um)
    depth = cv2.distanceTransform(mask, cv2.DIST_L2, 5) * pixel_um
    inner = np.clip(depth / depth.max(), 0, 1)
    ball = np.sqrt(inner * (2 - inner))
    phase = rng.uniform(*ROUND_DELAY) * diameter / (ROUND_SIZE * CELL_DIAMETER_UM) * ball
    phase += _granules(inner > 0.25, 0.5, rng.poisson(8), (-0.4, 0.6), pixel_um, rng)
    phase += _texture(mask.shape, 0.12, 0.7, pixel_um, rng)
    return Shape(mask.astype(bool), _within(phase, depth), ROUND)


def _diameter(rng: np.random.Generator) -> float:
    """Draw the diameter of a cell in micrometres, before the factor of its class."""
    return CELL_DIAMETER_UM * float(np.clip(rng.lognormal(0, 0.16), 0.65, 1.5))


def _spread_outline(rng: np.random.Generator) -> Points:
    angles = np.linspace(0, 2 * np.pi, OUTLINE_POINTS, endpoint=False)
    tips = int(rng.choice([2, 3, 4, 5], p=[0.45, 0.3, 0.17, 0.08]))
    directions = 2 * np.pi * (np.arange(tips) + rng.uniform(-0.2, 0.2, tips)) / tips
    radii = np.ones(OUTLINE_POINTS) + 0.15 * (tips == 2) * np.cos(2 * angles)
    for direction in directions:
        away = np.abs((angles - direction + np.pi) % (2 * np.pi) - np.pi)
        length = rng.gamma(4, 0.4 if tips == 2 else 0.3)
        blunt = rng.uniform(0.03, 0.12)
        tip = np.exp((blunt - np.hypot(away, blunt)) / rng.uniform(0.12, 0.35))
        radii += length * tip
    radii *= 1 + _waves(angles, range(3, 11), 0.05, rng)
    points = np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)
    bend, twist = rng.normal(0, (0.07, 0.015))
    points[:, 1] += bend * points[:, 0] ** 2 + twist * points[:, 0] ** 3
    return _turned(points, rng)


def _round_outline(rng: np.random.Generator) -> Points:
    angles = np.linspace(0, 2 * np.pi, OUTLINE_POINTS, endpoint=False)
    radii = 1 + _waves(angles, range(2, 7), 0.02, rng)
    points = np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)
    points[:, 1] *= rng.uniform(0.82, 1)
    return _turned(points, rng)


def _waves(angles: Points, orders: range, amplitude: float, rng: np.random.Generator) -> Points:
    """A random ripple around the outline, weaker at higher orders."""
    ripple = np.zeros_like(angles)
    for order in orders:
        phase = rng.uniform(0, 2 * np.pi)
        ripple += rng.normal(0, amplitude / np.sqrt(order)) * np.cos(order * angles + phase)
    return ripple


def _turned(points: Points, rng: np.random.Generator) -> Points:
    angle = rng.uniform(0, 2 * np.pi)
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.asarray(points @ np.array([[cosine, sine], [-sine, cosine]]))


def _filled(outline: Points, diameter: float) -> npt.NDArray[np.uint8]:
    """Mask of ``outline``, scaled to the area of a disc of ``diameter`` pixels."""
    area = cv2.contourArea(outline.astype(np.float32))
    points = outline * (diameter * np.sqrt(np.pi / 4 / area))
    points += BORDER - points.min(axis=0)
    width, height = np.ceil(points.max(axis=0)).astype(int) + BORDER
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [np.rint(points * 16).astype(np.int32)], (1,), shift=4)
    return mask


def _nucleus(
    mask: npt.NDArray[np.uint8], depth: Floats, pixel_um: float, rng: np.random.Generator
) -> Floats:
    """A pale oval with a dark rim and dark nucleoli, at the point farthest from the outline."""
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    rows, columns = np.indices(mask.shape, dtype=np.float32)
    x, y = (columns - column) * pixel_um, (rows - row) * pixel_um
    angle = rng.uniform(0, np.pi)
    along, across = rng.uniform(3.6, 5.2), rng.uniform(2.6, 3.6)
    u = (x * np.cos(angle) + y * np.sin(angle)) / along
    v = (y * np.cos(angle) - x * np.sin(angle)) / across
    radius = np.sqrt(u * u + v * v)
    phase = rng.uniform(0.05, 0.25) * np.exp(-(((radius - 1) / 0.18) ** 2))
    phase -= rng.uniform(0.05, 0.2) / (1 + np.exp(np.minimum((radius - 1) / 0.1, 50)))
    count = int(rng.integers(1, 5))
    phase += _granules(radius < 0.7, 0.75, count, (0.4, 1.0), pixel_um, rng)
    return np.asarray(phase, np.float32)


def _granules(
    where: npt.NDArray[np.bool_],
    size_um: float,
    count: int,
    delays: tuple[float, float],
    pixel_um: float,
    rng: np.random.Generator,
) -> Floats:
    """``count`` droplets of radius ``size_um`` at random places in ``where``."""
    phase = np.zeros(where.shape, np.float32)
    places = np.flatnonzero(where)
    if not places.size or not count:
        return phase
    peaks = rng.uniform(*delays, count) * 2 * np.pi * (size_um / pixel_um) ** 2
    sigma = max(size_um / pixel_um, 0.5)
    np.add.at(phase.reshape(-1), rng.choice(places, count), peaks.astype(np.float32))
    return np.asarray(cv2.GaussianBlur(phase, (0, 0), sigma))


def _texture(
    shape: tuple[int, ...],
    amplitude: float,
    size_um: float,
    pixel_um: float,
    rng: np.random.Generator,
) -> Floats:
    """Smooth noise of standard deviation ``amplitude`` with grains of ``size_um``."""
    sigma = max(size_um / pixel_um, 0.5)
    noise = cv2.GaussianBlur(rng.standard_normal(shape, dtype=np.float32), (0, 0), sigma)
    return np.asarray(noise * np.float32(amplitude * 2 * np.sqrt(np.pi) * sigma))


def _blurred(values: Floats, size_um: float, pixel_um: float) -> Floats:
    return np.asarray(cv2.GaussianBlur(values, (0, 0), max(size_um / pixel_um, 0.3)))


def _within(phase: Floats, depth: Floats) -> Floats:
    """Fade ``phase`` to 0 over the outermost half micrometre."""
    return (phase * np.clip(depth / 0.8, 0, 1)).astype(np.float32)


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
