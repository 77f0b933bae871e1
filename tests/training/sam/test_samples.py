"""Random views of a frame: image and cells stay together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from training.datasets.annotated import AnnotatedCell, AnnotatedDataset
from training.sam.frames import SamFrame, Sides, prepare_frames
from training.sam.samples import MIN_SHARE, ZOOM, draw_view

MakeDataset = Callable[..., AnnotatedDataset]

SIDES = Sides(image=64, grid=32)
BOXES = [(40, 60, 24, 36), (80, 100, 30, 20), (20, 20, 16, 16)]
"""(y, x, height, width); `make_dataset` draws them bright on dark."""


@pytest.fixture
def frame(make_dataset: MakeDataset) -> SamFrame:
    return prepare_frames(make_dataset(BOXES, shape=(128, 160)), SIDES)[0]


def view(frame: SamFrame, seed: int) -> SamFrame:
    return draw_view(frame, torch.Generator().manual_seed(seed))


def whole_mask(frame: SamFrame) -> np.ndarray:
    mask = np.zeros(frame.size, bool)
    for cell in frame.cells:
        height, width = cell.mask.shape
        mask[cell.y : cell.y + height, cell.x : cell.x + width] |= cell.mask
    return mask


@pytest.mark.parametrize("seed", range(12))
def test_cells_lie_where_the_image_shows_them(frame: SamFrame, seed: int) -> None:
    seen = view(frame, seed)
    assert seen.pixels.shape == frame.pixels.shape
    assert seen.pixels.dtype == torch.uint8
    assert seen.size == frame.size
    mask = torch.from_numpy(whole_mask(seen))[None, None].float()
    share = torch.nn.functional.interpolate(mask, seen.pixels.shape[1:], mode="area")[0, 0]
    grey = seen.pixels[0].float()
    # Half a pixel of displacement would put bright pixels outside, and dark ones inside.
    assert grey[share > 0.9].mean() > grey[share < 0.1].mean() + 60
    best = torch.corrcoef(torch.stack([grey.flatten(), share.flatten()]))[0, 1]
    for axis in (0, 1):
        for shift in (-1, 1):
            moved = share.roll(shift, axis)
            assert best > torch.corrcoef(torch.stack([grey.flatten(), moved.flatten()]))[0, 1]


def test_views_differ_in_size_light_and_place_and_are_drawn_anew_alike(frame: SamFrame) -> None:
    views = [view(frame, seed) for seed in range(40)]
    areas = [
        cell.area / frame.cells[0].area for v in views for cell in v.cells if len(v.cells) == 3
    ]
    assert min(areas) < 0.7
    assert max(areas) > 1.4
    assert max(areas) < 3 * ZOOM[1] ** 2
    assert len({v.pixels.numpy().tobytes() for v in views}) == 40
    means = [float(v.pixels.float().mean()) for v in views]
    assert max(means) - min(means) > 20
    again = view(frame, 7)
    assert torch.equal(again.pixels, views[7].pixels)
    assert again.cells == views[7].cells


def test_what_a_view_hardly_shows_is_no_cell_in_it(make_dataset: MakeDataset) -> None:
    corner = [(0, 0, 30, 30), (50, 50, 20, 20)]
    frame = prepare_frames(make_dataset(corner, shape=(128, 128)), SIDES)[0]
    views = [view(frame, seed) for seed in range(60)]
    counts = {len(v.cells) for v in views}
    assert counts == {1, 2}
    at_border = [c for v in views for c in v.cells if c.x == 0 or c.y == 0]
    assert at_border  # cut cells are kept
    smallest = min(cell.area for cell in at_border)
    assert smallest >= 0.9 * MIN_SHARE * 20 * 20 * ZOOM[0] ** 2


def test_a_frame_never_loses_its_last_cell(make_dataset: MakeDataset) -> None:
    frame = prepare_frames(make_dataset([(0, 0, 4, 4)], shape=(128, 128)), SIDES)[0]
    for seed in range(30):
        seen = view(frame, seed)
        assert len(seen.cells) == 1
        if seen.cells == frame.cells:
            break
    else:
        pytest.fail("every view shows the corner")


def test_touching_cells_stay_apart_and_overlapping_ones_overlap(frame: SamFrame) -> None:
    full = np.ones((30, 30), bool)
    pairs = {
        "touching": [
            AnnotatedCell.cut(full, 0, x=40, y=50),
            AnnotatedCell.cut(full, 0, x=70, y=50),
        ],
        "overlapping": [
            AnnotatedCell.cut(full, 0, x=40, y=50),
            AnnotatedCell.cut(full, 0, x=50, y=50),
        ],
    }
    shared = {}
    for name, cells in pairs.items():
        seen = view(replace(frame, cells=tuple(cells)), 3)
        sum_of_areas = sum(cell.area for cell in seen.cells)
        shared[name] = sum_of_areas - int(whole_mask(seen).sum())
    assert shared["touching"] < 30
    assert shared["overlapping"] > 200
