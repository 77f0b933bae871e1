"""Frames as tiles, beside ultralytics' LetterBox and OpenCV's resizing; crops of cells."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ultralytics.data.augment import LetterBox

from cytoserve.contract import CROP_SIZE
from training.preprocessing.cutting import (
    PADDING_VALUE,
    CellCrops,
    FrameTiles,
    NetworkTiles,
    scaled_frame,
)
from training.preprocessing.normalise import PercentileLevels, to_8_bit

SIZE = 64
"""Side of the small tiles of most tests here."""

SHAPES = [
    pytest.param((1, 1), id="one pixel"),
    pytest.param((2, 3), id="tiny"),
    pytest.param((480, 640), id="camera"),
    pytest.param((479, 639), id="odd"),
    pytest.param((640, 640), id="as the network"),
    pytest.param((1, 600), id="one row"),
    pytest.param((600, 33), id="tall"),
]


def textured(shape: tuple[int, int], channels: int = 1) -> npt.NDArray[np.int32]:
    """A 12-bit frame with structure of several pixels, as optics leaves it."""
    noise = np.random.default_rng(0).normal(size=(*shape, channels)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2).reshape(*shape, channels)
    smooth = (smooth - smooth.min()) / max(float(np.ptp(smooth)), 1e-6)
    return (smooth * 3000 + 200).astype(np.int32)


def tile(
    frame: npt.NDArray[np.int32], scale: float = 1.0, overlap: float = 0.0, size: int = 640
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], list[float]]:
    """Tiles ``[T, S, S, 3]``, their corners (x, y) in the scaled frame, and the tiling vector."""
    module = NetworkTiles(size)
    tiles, origins, tiling, _ = module(
        torch.from_numpy(frame), torch.tensor([scale]), torch.tensor([overlap])
    )
    assert (tiles.dtype, origins.dtype, tiling.dtype) == (torch.uint8, torch.float32, torch.float32)
    assert tiles.shape[1:] == (3, size, size)
    assert len(tiles) == len(origins)
    return tiles.permute(0, 2, 3, 1).numpy(), origins.numpy().astype(np.int64), tiling.tolist()


def normalised(frame: npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
    """The frame in 8 bits, RGB, at its own size."""
    camera = torch.from_numpy(frame)
    values = to_8_bit(camera.float(), PercentileLevels()(camera))
    return np.ascontiguousarray(values.expand(*frame.shape[:2], 3).numpy())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_small_frame_is_padded_as_ultralytics_pads(shape: tuple[int, int], channels: int) -> None:
    frame = textured(shape, channels)
    tiles, _, _ = tile(frame)
    expected = LetterBox((640, 640), scaleup=False)(image=normalised(frame))
    np.testing.assert_array_equal(tiles[0], expected)
    assert len(tiles) == 1


SCALES = [0.5, 0.3125, 1.7]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(
    ("shape", "channels"),
    [
        pytest.param((300, 200), 1, id="grey"),
        pytest.param((101, 203), 3, id="RGB"),
        pytest.param((1, 77), 1, id="one row"),
        pytest.param((1, 1), 1, id="one pixel"),
    ],
)
def test_scaling_is_opencvs_within_one_grey_level(
    shape: tuple[int, int], channels: int, scale: float
) -> None:
    frame = textured(shape, channels)
    frame[5::60, 10::60] = 65535  # hot pixels must not outshine their neighbours
    ours, scales = scaled_frame(torch.from_numpy(frame), scale)
    height, width = ours.shape[:2]
    assert (height, width) == tuple(max(1, round(side * scale)) for side in shape)
    assert scales == pytest.approx((width / shape[1], height / shape[0]))
    expected = cv2.resize(normalised(frame), (width, height), interpolation=cv2.INTER_LINEAR)
    assert np.abs(ours.numpy().astype(int) - expected).max() <= 1


@settings(max_examples=60)
@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.sampled_from([1.0, *SCALES]),
    st.floats(0, 1.2 * SIZE),
    st.sampled_from([1, 3]),
)
def test_every_pixel_of_the_scaled_frame_is_in_some_tile_at_its_place(
    height: int, width: int, scale: float, overlap: float, channels: int
) -> None:
    frame = np.random.default_rng(0).integers(0, 4096, (height, width, channels), np.int32)
    tiles, origins, tiling = tile(frame, scale, overlap, SIZE)
    whole, (scale_x, scale_y) = scaled_frame(torch.from_numpy(frame), scale)
    wanted = min(overlap, SIZE // 2)
    assert tiling == pytest.approx([scale_x, scale_y, height, width, wanted], rel=1e-6)

    # The canvas around the scaled frame holds what tiles show beyond it: padding, and no more.
    rows, columns = whole.shape[:2]
    canvas = np.full((rows + 2 * SIZE, columns + 2 * SIZE, 3), PADDING_VALUE, np.uint8)
    canvas[SIZE : SIZE + rows, SIZE : SIZE + columns] = whole.numpy()
    seen = np.zeros(canvas.shape[:2], bool)
    for pixels, (x, y) in zip(tiles, origins, strict=True):
        place = np.s_[SIZE + y : 2 * SIZE + y, SIZE + x : 2 * SIZE + x]
        np.testing.assert_array_equal(pixels, canvas[place])
        seen[place] = True
    assert seen[SIZE : SIZE + rows, SIZE : SIZE + columns].all()

    for axis, content in ((0, columns), (1, rows)):
        starts = np.unique(origins[:, axis])
        if content <= SIZE:
            assert len(starts) == 1
            continue
        assert (starts[0], starts[-1]) == (0, content - SIZE)  # no padding
        assert (starts[:-1] + SIZE - starts[1:]).min() > wanted - 1
        assert len(starts) == int(np.ceil((content - wanted) / (SIZE - wanted)))


@pytest.mark.parametrize(
    ("shape", "scale", "overlap", "expected"),
    [
        pytest.param((640, 640), 1.0, 128, 1, id="fits"),
        pytest.param((641, 640), 1.0, 0, 2, id="one pixel more"),
        pytest.param((1152, 640), 1.0, 128, 2, id="two by the overlap"),
        pytest.param((1153, 640), 1.0, 128, 3, id="one pixel more than two"),
        pytest.param((1152, 1664), 1.0, 128, 6, id="two by three"),
        pytest.param((2048, 2048), 1.0, 0, 16, id="large, no overlap"),
        pytest.param((2048, 2048), 0.3125, 128, 1, id="shrunk to one tile"),
        pytest.param((961, 640), 1.0, 1e9, 3, id="an overlap of half a tile at most"),
        pytest.param((961, 640), 1.0, -5, 2, id="no negative overlap"),
        pytest.param((30, 50), 1e-6, 0, 1, id="shrunk to one pixel"),
    ],
)
def test_number_of_tiles(
    shape: tuple[int, int], scale: float, overlap: float, expected: int
) -> None:
    tiles, _, tiling = tile(np.zeros((*shape, 1), np.int32), scale, overlap)
    assert len(tiles) == expected
    assert tiling[4] == min(max(overlap, 0), 320)


def test_tiles_come_row_by_row() -> None:
    _, origins, _ = tile(textured((100, 150)), 1.0, 16, SIZE)
    assert origins.tolist() == [[x, y] for y in (0, 36) for x in (0, 43, 86)]


@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.sampled_from([1.0, *SCALES]),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_origins_and_scales_map_places_on_a_tile_back_to_the_frame(
    height: int, width: int, scale: float, x: float, y: float
) -> None:
    """The corners of the content are those of the frame; all between is linear."""
    _, origins, (scale_x, scale_y, *_) = tile(np.zeros((height, width, 1), np.int32), scale, 16, 64)
    scaled = max(1, round(np.float32(scale) * width)), max(1, round(np.float32(scale) * height))
    for origin in (origins[0], origins[-1]):
        on_tile = np.array([x * scaled[0], y * scaled[1]]) - origin
        back = (on_tile + origin) / (scale_x, scale_y)
        np.testing.assert_allclose(back, (x * width, y * height), rtol=1e-6, atol=1e-4)


def test_a_side_is_rounded_alike_for_training_and_serving() -> None:
    """65 * 1.7 is 110.5: as float32, in which the scale is served, a little more."""
    frame = textured((65, 65))
    tiles, _, _ = tile(frame, 1.7)
    whole, _ = scaled_frame(torch.from_numpy(frame), 1.7)
    assert (tiles[0] != PADDING_VALUE).any(axis=2).any(axis=0).sum() == whole.shape[1] == 111


def test_a_grey_frame_is_prepared_as_the_same_frame_in_rgb() -> None:
    grey = textured((211, 160))
    np.testing.assert_array_equal(tile(grey)[0], tile(np.repeat(grey, 3, axis=2))[0])


@pytest.mark.parametrize("value", [0, 900, 65535])
def test_a_frame_of_one_value_is_middle_grey(value: int) -> None:
    tiles, origins, _ = tile(np.full((50, 60, 1), value, np.int32))
    x, y = -origins[0]
    assert (tiles[0, y : y + 50, x : x + 60] == 128).all()
    assert (tiles[0] == 128).all(axis=2).sum() == 50 * 60


@settings(max_examples=30)
@given(st.integers(1, 200), st.integers(1, 200), st.sampled_from([1.0, 0.5]), st.floats(0, 40))
def test_tiles_without_padding_are_parts_of_the_scaled_frame(
    height: int, width: int, scale: float, overlap: float
) -> None:
    frame = torch.from_numpy(textured((height, width)))
    tiles, origins, tiling, frame_size = FrameTiles(SIZE)(
        frame, torch.tensor([scale]), torch.tensor([overlap])
    )
    whole, scales = scaled_frame(frame, scale)
    assert tiling[:2].tolist() == pytest.approx(scales)
    assert frame_size.tolist() == [height, width]
    sides = (min(SIZE, whole.shape[0]), min(SIZE, whole.shape[1]))
    assert tuple(tiles.shape[1:]) == (3, *sides)
    seen = torch.zeros(whole.shape[:2], dtype=torch.bool)
    for pixels, (x, y) in zip(tiles, origins.long().tolist(), strict=True):
        place = np.s_[y : y + sides[0], x : x + sides[1]]
        assert torch.equal(pixels.permute(1, 2, 0), whole[place])
        seen[place] = True
    assert seen.all()


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
