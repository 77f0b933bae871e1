"""Masks to learn from are as large as the cells, wherever these lie on the pixels."""

from __future__ import annotations

import numpy as np
import pytest

from training.yolo.trainer import POINTS, CentreMasks, centre_masks

from ultralytics.data.augment import Format  # isort: skip
from ultralytics.utils.instance import Instances  # isort: skip

SIDE, RATIO = 128, 4


def disc(radius: float, points: int = 1000) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def square(radius: float) -> np.ndarray:
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1.0]]) * radius
    ends = np.roll(corners, -1, axis=0)
    return np.concatenate([np.linspace(a, b, 50) for a, b in zip(corners, ends, strict=True)])


def wider(masks: np.ndarray, area: float, length: float) -> float:
    """Pixels by which masks of one cell are wider than it on each side, in the mean."""
    return float((masks.sum(axis=(1, 2)).mean() * RATIO**2 - area) / length)


def placed(shape: np.ndarray, step: float) -> list[np.ndarray]:
    """The shape at 64 places, ``step`` pixels apart."""
    return [shape + 60 + (x * step, y * step) for x in range(8) for y in range(8)]


def masks_of(transform: Format, outlines: list[np.ndarray]) -> np.ndarray:
    boxes = np.array([[*outline.min(axis=0), *outline.max(axis=0)] for outline in outlines])
    same_length = np.array([outline[:200] for outline in outlines], np.float32)
    found = Instances(boxes, same_length, bbox_format="xyxy", normalized=False)
    return transform._format_segments(found, np.zeros((len(outlines), 1)), SIDE, SIDE)[0]


@pytest.mark.parametrize("step", [0.5, 1.0], ids=["between pixels", "on whole pixels"])
@pytest.mark.parametrize(
    ("shape", "area", "length"),
    [
        pytest.param(disc(10), np.pi * 100, 20 * np.pi, id="small disc"),
        pytest.param(disc(37.3), np.pi * 37.3**2, 74.6 * np.pi, id="disc"),
        pytest.param(square(16), 32.0**2, 128.0, id="square"),
    ],
)
def test_masks_are_as_large_as_the_cells(
    shape: np.ndarray, area: float, length: float, step: float
) -> None:
    masks = centre_masks(placed(shape, step), (SIDE, SIDE), RATIO)
    assert masks.shape == (64, SIDE // RATIO, SIDE // RATIO)
    assert wider(masks, area, length) == pytest.approx(0, abs=0.06)


def test_those_of_ultralytics_are_not() -> None:
    """Why there is a transform of our own: should this fail, it may go."""
    outlines = placed(disc(20, 200), 0.5)
    area, length = np.pi * 400, 40 * np.pi
    options = {"return_mask": True, "mask_ratio": RATIO, "mask_overlap": False}
    assert wider(masks_of(Format(**options), outlines), area, length) > 0.6
    ours = masks_of(CentreMasks(**options), outlines)
    assert wider(ours, area, length) == pytest.approx(0, abs=0.06)


@pytest.mark.parametrize(
    ("outline", "inside"),
    [
        pytest.param(disc(10) + np.array([-20, 50]), 0, id="beside the window"),
        pytest.param(disc(10, 3), None, id="three points"),
        pytest.param(disc(10) + np.array([0, 64]), None, id="half of it"),
        pytest.param(disc(0.3) + 64.0, 0, id="between the centres"),
    ],
)
def test_odd_outlines(outline: np.ndarray, inside: int | None) -> None:
    [mask] = centre_masks([outline], (SIDE, SIDE), RATIO)
    assert mask.max() <= 1
    assert (mask.sum() == inside) if inside is not None else (mask.sum() > 0)


def test_no_cell_has_no_mask() -> None:
    assert centre_masks([], (SIDE, SIDE), RATIO).shape == (0, SIDE // RATIO, SIDE // RATIO)


def test_a_long_outline_is_thinned() -> None:
    fine, coarse = disc(30, 20 * POINTS) + 64, disc(30, POINTS) + 64
    masks = centre_masks([fine, coarse], (SIDE, SIDE), RATIO)
    assert np.count_nonzero(masks[0] != masks[1]) <= 2
