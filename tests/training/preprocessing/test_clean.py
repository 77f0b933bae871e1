"""Cleaning, beside OpenCV's own filters, in torch and in ONNX Runtime."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch

from cytoserve.images import read_frame
from training.preprocessing.clean import Clean, clean_image

Image = npt.NDArray[np.uint8]

SIZES = [
    pytest.param((1, 1), id="one pixel"),
    pytest.param((1, 2), id="two pixels"),
    pytest.param((1, 40), id="one row"),
    pytest.param((40, 1), id="one column"),
    pytest.param((2, 3), id="2 x 3"),
    pytest.param((3, 3), id="3 x 3"),
    pytest.param((4, 2), id="4 x 2"),
    pytest.param((5, 6), id="5 x 6"),
    pytest.param((63, 101), id="odd"),
    pytest.param((128, 96), id="even"),
]


def noise(height: int, width: int) -> Image:
    return np.random.default_rng(height + width).integers(0, 256, (height, width, 3), np.uint8)


def textured(height: int, width: int) -> Image:
    """Structure of several pixels, as optics leaves it, from black to white."""
    smooth = cv2.GaussianBlur(noise(height, width).astype(np.float32), (0, 0), 2)
    smooth = smooth.reshape(height, width, 3) - smooth.min()
    return np.asarray(smooth / max(smooth.max(), 1e-6) * 255, np.uint8)


def spots(height: int, width: int) -> Image:
    """Saturated pixels on black: sharpening leaves 0..255 on both sides."""
    return np.where(noise(height, width) > 230, 255, 0).astype(np.uint8)


def opencv(image: Image) -> Image:
    kernel = np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0]], np.float32)
    sharp = cv2.filter2D(cv2.GaussianBlur(image, (5, 5), 0), -1, kernel)
    return np.asarray(cv2.medianBlur(sharp, 3), np.uint8)


def assert_equals_opencv(image: Image) -> None:
    cleaned = clean_image(image)
    assert cleaned.dtype == np.uint8
    assert cleaned.shape == image.shape
    assert np.abs(cleaned.astype(int) - opencv(image)).max() <= 1


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("draw", [noise, textured, spots])
def test_equals_opencv(draw: Callable[[int, int], Image], size: tuple[int, int]) -> None:
    assert_equals_opencv(draw(*size))


@pytest.mark.parametrize("grey", [0, 127, 255])
def test_a_constant_frame_stays_as_it_is(grey: int) -> None:
    image = np.full((9, 7, 3), grey, np.uint8)
    assert np.array_equal(clean_image(image), image)


def test_a_real_frame(shared_data: Path) -> None:
    assert_equals_opencv(read_frame(shared_data / "brecahad" / "images" / "Case_10-03.jpg"))


def test_channels_are_cleaned_apart() -> None:
    image = noise(20, 30)
    repeated = clean_image(np.repeat(image[:, :, 1:2], 3, axis=2))
    assert np.array_equal(repeated, clean_image(image)[:, :, [1, 1, 1]])


@pytest.fixture(scope="module")
def session() -> onnxruntime.InferenceSession:
    """`Clean` exported with one frame, H and W dynamic."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        warnings.filterwarnings("ignore", "Constant folding", UserWarning)
        torch.onnx.export(
            Clean().eval(),
            (torch.zeros(1, 3, 17, 23),),
            file,
            dynamo=False,
            opset_version=17,
            input_names=["values"],
            output_names=["cleaned"],
            dynamic_axes={name: {2: f"{name}_h", 3: f"{name}_w"} for name in ("values", "cleaned")},
        )
    return onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("size", SIZES)
def test_onnx_runtime_agrees(session: onnxruntime.InferenceSession, size: tuple[int, int]) -> None:
    values = noise(*size).transpose(2, 0, 1)[None].astype(np.float32)
    (cleaned,) = session.run(None, {"values": values})
    assert cleaned.shape == values.shape
    assert np.array_equal(cleaned, Clean()(torch.from_numpy(values)).numpy())
