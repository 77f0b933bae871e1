"""The letterbox, beside ultralytics' own."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ultralytics.data.augment import LetterBox

from training.letterbox import PADDING_VALUE, PrepareFrame
from training.normalise import to_8_bit

SHAPES = [
    pytest.param((1, 1), id="one pixel"),
    pytest.param((2, 3), id="tiny"),
    pytest.param((480, 640), id="camera"),
    pytest.param((479, 641), id="odd"),
    pytest.param((640, 640), id="as the network"),
    pytest.param((1024, 1024), id="larger"),
    pytest.param((1200, 1600), id="larger and wide"),
    pytest.param((20, 900), id="wide"),
    pytest.param((700, 33), id="tall"),
    pytest.param((1, 700), id="one row"),
]


def textured(shape: tuple[int, int], channels: int) -> np.ndarray:
    """A 12-bit frame with structure of several pixels, as optics leaves it."""
    noise = np.random.default_rng(0).normal(size=(*shape, channels)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2).reshape(*shape, channels)
    smooth = (smooth - smooth.min()) / max(np.ptp(smooth), 1e-6)
    return (smooth * 3000 + 200).astype(np.int32)


def assert_equals_ultralytics(frame: torch.Tensor) -> None:
    prepared, _, levels = PrepareFrame()(frame)
    normalised = to_8_bit(frame.float(), levels).expand(*frame.shape[:2], 3).numpy()
    expected = LetterBox((640, 640))(image=np.ascontiguousarray(normalised))
    difference = prepared[0].permute(1, 2, 0).numpy().astype(int) - expected
    assert prepared.shape == (1, 3, 640, 640)
    assert prepared.dtype == torch.uint8
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("channels", [1, 3])
def test_equals_ultralytics_within_one_grey_level(shape: tuple[int, int], channels: int) -> None:
    assert_equals_ultralytics(torch.from_numpy(textured(shape, channels)))


def test_hot_pixels_do_not_outshine_their_neighbours() -> None:
    frame = textured((300, 200), 1)
    frame[10::60, 10::60] = 65535
    assert_equals_ultralytics(torch.from_numpy(frame))


@settings(max_examples=30)
@given(st.integers(1, 1500), st.integers(1, 1500))
def test_the_letterbox_vector_maps_the_frames_corners_onto_the_content(
    height: int, width: int
) -> None:
    black = torch.full((height, width, 1), 900, dtype=torch.int32)  # one value: all content is 0
    prepared, letterbox, _ = PrepareFrame()(black)
    scale_x, scale_y, pad_x, pad_y, frame_height, frame_width = letterbox.tolist()
    rows, columns = np.nonzero(prepared[0, 0].numpy() != PADDING_VALUE)
    assert (frame_height, frame_width) == (height, width)
    assert rows.min() == pytest.approx(pad_y, abs=1e-3)
    assert columns.min() == pytest.approx(pad_x, abs=1e-3)
    assert rows.max() + 1 == pytest.approx(height * scale_y + pad_y, abs=1e-2)
    assert columns.max() + 1 == pytest.approx(width * scale_x + pad_x, abs=1e-2)
    assert max(rows.max() + 1 - rows.min(), columns.max() + 1 - columns.min()) == 640


def test_a_grey_frame_is_prepared_as_the_same_frame_in_rgb() -> None:
    grey = torch.from_numpy(textured((211, 160), 1))
    prepared = PrepareFrame()
    assert torch.equal(prepared(grey)[0], prepared(grey.expand(-1, -1, 3))[0])
