from __future__ import annotations

import numpy as np
import pytest

from cytoserve.contract import MAX_FRAME_BYTES, MAX_SIDE
from cytoserve.errors import FrameTooLarge, UnsupportedImage
from cytoserve.frames import check_layout, to_wire

RAMP = np.arange(2 * 3 * 3).reshape(2, 3, 3)


@pytest.mark.parametrize(
    ("image", "wire"),
    [
        pytest.param(RAMP[..., 0].astype(np.uint8), RAMP[..., :1], id="grey-uint8-widened"),
        pytest.param(RAMP[..., 0].astype(np.uint16), RAMP[..., :1], id="grey-uint16"),
        pytest.param(RAMP[..., :1].astype(np.uint16), RAMP[..., :1], id="one-channel"),
        pytest.param(RAMP.astype(np.uint8), RAMP, id="rgb-uint8"),
        pytest.param(RAMP.astype(">u2"), RAMP, id="big-endian"),
        pytest.param(np.asfortranarray(RAMP.astype(np.uint16)), RAMP, id="fortran-order"),
        pytest.param(RAMP.astype(np.uint16)[:, ::-1], RAMP[:, ::-1], id="negative-stride"),
        pytest.param(np.array([[7]], np.uint8), [[[7]]], id="1x1"),
        pytest.param(np.array([[[1, 2, 3]]], np.uint8), [[[1, 2, 3]]], id="1x1-rgb"),
        pytest.param(np.array([[0, 0.5, 1]]), [[[0], [32768], [65535]]], id="float64"),
        pytest.param(np.array([[0, 1]], np.float16), [[[0], [65535]]], id="float16"),
        pytest.param(np.array([[0, 1]], ">f4"), [[[0], [65535]]], id="big-endian-float"),
        pytest.param(np.array([[0, 65535]], np.uint16), [[[0], [65535]]], id="full-range"),
    ],
)
def test_accepted(image, wire):
    before = image.copy()
    result = to_wire(image)
    np.testing.assert_array_equal(result, wire)
    assert result.dtype == np.uint16
    assert result.dtype.isnative
    assert result.flags.c_contiguous
    np.testing.assert_array_equal(image, before)  # the caller's array is left alone


@pytest.mark.parametrize(
    ("image", "told"),
    [
        pytest.param(np.zeros((4, 5, 4), np.uint8), "shape (4, 5, 4), dtype uint8", id="rgba"),
        pytest.param(np.zeros((4, 5, 2), np.uint8), "image[..., 0]", id="2-channels"),
        pytest.param(np.zeros((1, 4, 5), np.uint8), "image[0]", id="1xHxW"),
        pytest.param(np.zeros((3, 4, 5), np.uint8), "moveaxis", id="3xHxW"),
        pytest.param(np.zeros((2, 4, 5, 3), np.uint8), "shape (2, 4, 5, 3)", id="stack"),
        pytest.param(np.array(3, np.uint8), "shape ()", id="0-dim"),
        pytest.param(np.zeros(5, np.uint8), "shape (5,)", id="1-dim"),
        pytest.param(np.zeros((0, 5), np.uint16), "at least one pixel", id="no-rows"),
        pytest.param(np.zeros((5, 0, 3), np.uint16), "at least one pixel", id="no-columns"),
        pytest.param(np.zeros((4, 5), np.int32), "astype(numpy.uint16)", id="int32"),
        pytest.param(np.zeros((4, 5), np.int8), "dtype int8", id="int8"),
        pytest.param(np.zeros((4, 5), np.uint64), "dtype uint64", id="uint64"),
        pytest.param(np.zeros((4, 5), bool), "dtype bool", id="bool"),
        pytest.param(np.zeros((4, 5), complex), "dtype complex128", id="complex"),
        pytest.param(np.full((4, 5), None), "dtype object", id="object"),
        pytest.param(np.full((4, 5), "a"), "dtype <U1", id="text"),
        pytest.param(np.zeros((4, 5), "M8[s]"), "dtype datetime64[s]", id="time"),
        pytest.param(np.array([[0, np.nan]]), "1 values NaN", id="nan"),
        pytest.param(np.array([[3, np.nan]]), "where(numpy.isfinite(image), image, 0)", id="fill"),
        pytest.param(np.array([[0, np.inf]]), "from 0 to inf", id="inf"),
        pytest.param(np.array([[0, 1.5]]), "from 0 to 1.5", id="float-above-1"),
        pytest.param(np.array([[3, 9.5]]), "(image - image.min()) / numpy.ptp", id="scale"),
        pytest.param(np.array([[-0.1, 1]]), "from -0.1 to 1", id="float-below-0"),
        pytest.param([[1, 2]], "given: list", id="list"),
        pytest.param(None, "given: NoneType", id="none"),
    ],
)
def test_refused_with_rule_given_and_remedy(image, told):
    with pytest.raises(UnsupportedImage) as refusal:
        to_wire(image)
    message = str(refusal.value)
    assert told in message
    assert message.startswith("A ")  # the rule
    assert "; given: " in message
    if isinstance(image, np.ndarray):
        assert f"shape {image.shape}, dtype {image.dtype}" in message
    assert message.endswith(".")


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((MAX_SIDE + 1, 1), id="side"),
        pytest.param((1, MAX_SIDE + 1, 3), id="other-side"),
        pytest.param((8192, 8193), id="bytes-grey"),
        pytest.param((4730, 4730, 3), id="bytes-rgb"),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float64])
def test_too_large_is_refused_before_anything_is_touched(shape, dtype):
    image = np.broadcast_to(np.zeros(1, dtype), shape)  # takes no memory itself
    with pytest.raises(FrameTooLarge, match=f"{MAX_FRAME_BYTES:,} bytes.*given: .*Cut it"):
        to_wire(image)


@pytest.mark.parametrize("shape", [(8192, 8192), (4729, 4729, 3), (MAX_SIDE, 4096)])
def test_largest_frames_are_accepted(shape):
    assert np.prod(check_layout(shape, np.dtype(np.uint16))) * 2 <= MAX_FRAME_BYTES
