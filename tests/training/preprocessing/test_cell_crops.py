"""Rectangles cut around cells."""

from __future__ import annotations

import pytest
import torch

from cytoserve.contract import CROP_SIZE
from training.preprocessing.cell_crops import CellCrops

LEVELS = torch.tensor([0.0, 255.0])


def crop(image: torch.Tensor, *boxes: tuple[float, ...]) -> torch.Tensor:
    return CellCrops()(image, LEVELS, torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))


def ramp(height: int = 200, width: int = 220) -> torch.Tensor:
    """Columns count up in the first channel, rows in the second; the third is black."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x, y, torch.zeros_like(x)], dim=2).int()


@pytest.mark.parametrize(("boxes", "rows"), [(0, 1), (1, 1), (7, 7)])
def test_one_row_a_box_and_never_none(boxes: int, rows: int) -> None:
    crops = crop(ramp(), *[(10.0, 10.0, 40.0, 30.0)] * boxes)
    assert crops.shape == (rows, 3, CROP_SIZE, CROP_SIZE)
    assert crops.dtype == torch.uint8


def test_pixels_stay_where_they_are() -> None:
    """A box of the crop's own size is copied: no flip, no transposition, no shift."""
    x, y = 30, 77
    (cut,) = crop(ramp(), (x, y, x + CROP_SIZE, y + CROP_SIZE))
    expected = ramp()[y : y + CROP_SIZE, x : x + CROP_SIZE].permute(2, 0, 1)
    assert torch.equal(cut.int(), expected)


def test_a_rectangle_is_stretched_to_the_square() -> None:
    (cut,) = crop(ramp(), (20, 50, 20 + CROP_SIZE // 2, 50 + 2 * CROP_SIZE))
    assert cut[0, 0, -1] - cut[0, 0, 0] == pytest.approx(CROP_SIZE / 2, abs=1)
    assert cut[1, -1, 0] - cut[1, 0, 0] == pytest.approx(2 * CROP_SIZE, abs=2)


def test_a_box_over_the_edge_shows_the_border_inside_and_black_outside() -> None:
    white = torch.full((60, 60, 1), 255, dtype=torch.int32)
    (cut,) = crop(white, (-30, -30, 30, 30))
    assert (cut[:, CROP_SIZE // 2 :, CROP_SIZE // 2 :] == 255).all()
    assert not cut[:, : CROP_SIZE // 2 - 2].any()


def test_grey_is_repeated_three_times() -> None:
    grey = ramp()[:, :, :1]
    assert torch.equal(crop(grey, (5, 5, 70, 60)), crop(grey.expand(-1, -1, 3), (5, 5, 70, 60)))


def test_levels_are_those_of_the_frame_not_of_the_crop() -> None:
    dim = torch.full((80, 80, 1), 64, dtype=torch.int32)
    assert (crop(dim, (10, 10, 50, 50)) == 64).all()
