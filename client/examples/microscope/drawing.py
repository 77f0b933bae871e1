"""Pictures of what the examples did: a curve over time, and a map of the stage."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT, MARGIN = 800, 600, 60
INK, FAINT = (40, 40, 40), (200, 160, 60)


def draw_curve(values: Sequence[float], title: str, out: Path) -> None:
    """Draw one value per time point, with its number above it."""
    picture = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    across = np.linspace(MARGIN, WIDTH - MARGIN, max(len(values), 2))[: len(values)]
    up = np.array(values) / max(*values, 1e-9) * (HEIGHT - 2 * MARGIN)
    points = np.stack([across, HEIGHT - MARGIN - up], axis=1).round().astype(np.int32)
    cv2.polylines(picture, [points], False, FAINT, 3, cv2.LINE_AA)
    for (x, y), value in zip(points.tolist(), values, strict=True):
        cv2.circle(picture, (x, y), 6, INK, -1, cv2.LINE_AA)
        cv2.putText(picture, f"{value:.3g}", (x - 14, y - 14), 0, 0.6, INK, 1, cv2.LINE_AA)
    cv2.putText(picture, title, (MARGIN, 30), 0, 0.7, INK, 1, cv2.LINE_AA)
    cv2.imwrite(str(out), picture)


def draw_map(
    outlines_um: Iterable[NDArray[np.float64]],
    visited_um: Iterable[tuple[float, float]],
    title: str,
    out: Path,
) -> None:
    """Draw outlines where they lie on the stage, and a cross at each place that was visited."""
    outlines = [outline for outline in outlines_um if len(outline)]
    visited = np.array(list(visited_um)).reshape(-1, 2)
    places = np.concatenate([*outlines, visited]) if outlines or len(visited) else np.zeros((1, 2))
    low, size = places.min(axis=0), max(np.ptp(places, axis=0).max(), 1.0)

    def drawn(points: NDArray[np.float64]) -> NDArray[np.int32]:
        return ((points - low) / size * (HEIGHT - 2 * MARGIN) + MARGIN).round().astype(np.int32)

    picture = np.full((HEIGHT, HEIGHT, 3), 255, np.uint8)
    cv2.polylines(picture, [drawn(outline) for outline in outlines], True, FAINT, 2, cv2.LINE_AA)
    for place in drawn(visited).tolist():
        cv2.drawMarker(picture, place, INK, cv2.MARKER_CROSS, 14, 2, cv2.LINE_AA)
    cv2.putText(picture, title, (MARGIN, 30), 0, 0.6, INK, 1, cv2.LINE_AA)
    cv2.imwrite(str(out), picture)
