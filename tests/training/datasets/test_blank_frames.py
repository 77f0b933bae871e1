"""Empty frames: what they are made of, and how the U-Nets see them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from training.datasets.blank_frames import OFFSET, blank_frame, blank_slide
from training.preprocessing.clean import clean_image
from training.unet.frames import MaskedImage
from training.unet.samples import (
    MIN_SCALE,
    BlankImages,
    blank_tile,
    blank_whole_frame,
    blanks_like,
    training_blanks,
    validation_blanks,
)
from training.unet.settings import UnetSettings

SHAPES = [(60, 80), (1, 1), (1, 90), (90, 1), (33, 17)]


def image(channels: int, height: int, width: int) -> MaskedImage:
    pixels = torch.zeros((channels, height, width), dtype=torch.uint8)
    mask = torch.ones((1, height, width), dtype=torch.bool)
    return MaskedImage("image", pixels, mask, torch.ones((1, 1, 1), dtype=torch.float16))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_frames_of_every_kind_and_size(shape: tuple[int, int], channels: int) -> None:
    random = np.random.default_rng(0)
    frames = [blank_frame(random, *shape, channels) for _ in range(60)]
    assert {frame.shape for frame in frames} == {(*shape, channels)}
    assert {frame.dtype for frame in frames} == {np.dtype(np.uint16)}
    means = np.array([float(frame.mean()) for frame in frames]) - OFFSET
    assert means.min() < 300
    assert means.max() > 3000
    if shape == (60, 80):
        spreads = [float(frame.std((0, 1)).max()) for frame in frames]
        assert min(spreads) < 1
        assert max(spreads) > 50
    assert np.array_equal(
        blank_frame(np.random.default_rng(4), *shape, channels),
        blank_frame(np.random.default_rng(4), *shape, channels),
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_slides_are_bright_and_even(shape: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    slides = [blank_slide(random, *shape) for _ in range(60)]
    assert {slide.shape for slide in slides} == {(*shape, 3)}
    assert {slide.dtype for slide in slides} == {np.dtype(np.uint8)}
    if shape == (60, 80):
        bright = [slide for slide in slides if np.median(slide) > 180]
        assert 0.6 < len(bright) / len(slides) < 0.95  # others are dim
        assert max(float(slide.astype(float).std()) for slide in slides) < 60
        assert min(float(slide.astype(float).std((0, 1)).max()) for slide in slides) == 0


def test_frames_are_prepared_and_slides_are_cleaned_as_images_are() -> None:
    whole = blank_whole_frame(np.random.default_rng(2), 40, 50, 1)
    assert (whole.shape, whole.dtype) == ((1, 40, 50), torch.uint8)
    assert abs(float(whole.float().mean()) - 128) < 40
    assert blank_whole_frame(np.random.default_rng(2), 40, 50, 3).shape == (3, 40, 50)
    tile = blank_tile(np.random.default_rng(2), 40, 50, 3)
    expected = clean_image(blank_slide(np.random.default_rng(2), 40, 50))
    assert np.array_equal(tile.permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize(
    ("given", "least"),
    [
        pytest.param({"resolution": "32x16"}, MIN_SCALE, id="resized frames: many sizes"),
        pytest.param({"resolution": "32x16", "window_scale": 0.5}, MIN_SCALE, id="windows"),
        pytest.param({"resolution": "32x16", "mode": "crop"}, 1.0, id="crops at native scale"),
        pytest.param({"resolution": "native"}, 1.0, id="native"),
    ],
)
def test_empty_frames_have_the_sizes_of_the_images(given: dict[str, Any], least: float) -> None:
    images = [image(1, 80, 120), image(3, 40, 100)]
    make = blanks_like(images, UnetSettings(**given), blank_whole_frame, None)
    random = np.random.default_rng(0)
    made = [make(random) for _ in range(60)]
    heights = {1: 80, 3: 40}
    scales = [blank.size[0] / heights[len(blank.pixels)] for blank in made]
    assert {len(blank.pixels) for blank in made} == {1, 3}
    assert max(scales) <= 1
    assert least <= min(scales) < least + 0.1
    assert not any(blank.mask.any() for blank in made)
    assert {blank.weights.shape for blank in made} == {(1, 1, 1)}


def test_where_images_have_weights_empty_frames_have_those_of_background() -> None:
    blank = BlankImages(blank_tile, ((3, 20, 30),), background_weight=0.625)(
        np.random.default_rng(0)
    )
    assert blank.weights.shape == (1, 20, 30)
    assert blank.weights.unique().tolist() == [0.625]


@pytest.mark.parametrize(
    ("share", "images", "windows", "count", "validated"),
    [
        pytest.param(0.1, 10, 1, 1, 6, id="a tenth"),
        pytest.param(0.1, 10, 4, 4, 6, id="of the windows"),
        pytest.param(0.1, 15, 1, 2, 6, id="rounded up"),
        pytest.param(0.1, 1, 1, 1, 1, id="one at least"),
        pytest.param(0.1, 91, 1, 10, 10, id="many images"),
        pytest.param(1.0, 7, 1, 7, 7, id="as many"),
        pytest.param(0.0, 50, 1, 0, 0, id="none"),
    ],
)
def test_numbers_of_empty_frames(
    share: float, images: int, windows: int, count: int, validated: int
) -> None:
    settings = UnetSettings(blank_share=share, samples_per_frame=windows)
    assert training_blanks(images, settings) == count
    make = BlankImages(blank_whole_frame, ((1, 8, 8),))
    kept = validation_blanks(make, images, settings, seed=1)
    assert len(kept) == validated
    again = validation_blanks(make, images, settings, seed=1)
    assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(kept, again, strict=True))
    if len(kept) > 1:
        assert len({blank.pixels.numpy().tobytes() for blank in kept}) > 1
