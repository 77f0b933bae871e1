"""The list of empty frames."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from benchmarks.fields.empty_frames import KINDS, SIZES, empty_frames


@pytest.fixture(scope="module")
def frames():
    """Each kind often enough to meet most of its values."""
    return list(empty_frames(seed=0, count=8 * len(KINDS)))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_made_in_several_sizes(frames, kind):
    made = [frame.image for frame in frames if frame.kind == kind]
    assert len(made) == 8
    assert {image.shape[:2] for image in made} == set(SIZES)
    assert {image.dtype for image in made} <= {np.dtype(np.uint8), np.dtype(np.uint16)}
    assert {image.shape[2:] for image in made} <= {(), (3,)}


def test_frames_differ_and_have_names_of_their_own(frames):
    assert len({frame.name for frame in frames}) == len(frames)
    assert len({frame.image.tobytes() for frame in frames}) == len(frames)


@pytest.mark.parametrize(
    ("kind", "least", "most"),
    [
        pytest.param("constant", 0, 0, id="constant"),
        pytest.param("read noise", 0, 25, id="read noise"),
        pytest.param("defocused debris", 1, 1500, id="defocused debris"),
    ],
)
def test_noise_is_of_the_kind(frames, kind, least, most):
    for frame in frames:
        if frame.kind == kind:
            assert least <= frame.image.std() <= most, frame.name


def test_the_same_seed_gives_the_same_frames_and_another_others(frames):
    again = list(islice(empty_frames(0, count=200), len(KINDS)))
    others = list(islice(empty_frames(1, count=200), len(KINDS)))
    for frame, same, other in zip(frames, again, others, strict=False):
        np.testing.assert_array_equal(frame.image, same.image)
        assert frame.name == same.name
        if frame.kind != "constant":
            assert frame.image.tobytes() != other.image.tobytes()
