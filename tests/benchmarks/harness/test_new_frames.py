"""Frames of the same pixels that are not the same frame."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.harness.load import each_time_new, new_frames


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((6, 8), id="grey"),
        pytest.param((6, 8, 3), id="RGB"),
        pytest.param((50, 2), id="more frames than columns"),
    ],
)
def test_every_frame_is_another_of_the_same_pixels(shape):
    image = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    frames = [*new_frames(image, 8), *new_frames(image, 8)]
    seen = {frame.tobytes() for frame in frames}
    assert len(seen) == 16
    for frame in frames:
        assert frame.shape == shape
        assert frame.dtype == np.uint16
        np.testing.assert_array_equal(np.sort(frame, axis=None), image.ravel())


def test_every_call_gets_its_own():
    image = np.arange(48).reshape(6, 8)
    run = each_time_new(lambda frame: frame.tobytes(), image, 3)
    assert len({run(), run(), run()}) == 3
