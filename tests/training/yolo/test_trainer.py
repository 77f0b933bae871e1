"""Masks to learn from, and the score threshold by the cells that the served pipeline would find."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from cytoserve.contract import NETWORK_SIZE
from training import evaluation
from training.checkpoint import LearnedScale
from training.datasets.annotated import AnnotatedDataset
from training.evaluation import BLANKS
from training.yolo import trainer
from training.yolo.decode import COEFFICIENTS
from training.yolo.network import YoloNetwork, new_network
from training.yolo.trainer import POINTS, CentreMasks, centre_masks, yolo_threshold

from ultralytics.data.augment import Format  # isort: skip
from ultralytics.utils.instance import Instances  # isort: skip


MakeDataset = Callable[..., AnnotatedDataset]


class BrightBlobs(nn.Module):
    """Stands in for a network: every bright blob is a cell of score 0.9, and in the middle of each
    tile, where there is none, one of score 0.4 is found."""

    def __init__(self, network: object) -> None:
        super().__init__()

    def forward(self, network_image: Tensor) -> tuple[Tensor, Tensor]:
        predictions = torch.zeros(len(network_image), 4 + 1 + COEFFICIENTS, 50)
        side = NETWORK_SIZE // 4
        prototypes = torch.full((len(network_image), COEFFICIENTS, side, side), 5.0)
        for row, image in enumerate(network_image[:, 0].numpy()):
            blobs = cv2.morphologyEx(
                (image > 160).astype(np.uint8), cv2.MORPH_OPEN, np.ones((5, 5))
            )
            _, _, boxes, _ = cv2.connectedComponentsWithStats(blobs)
            found = [(x + w / 2, y + h / 2, w, h, 0.9) for x, y, w, h, _ in boxes[1:]]
            for anchor, values in enumerate([*found, (320, 320, 12, 12, 0.4)]):
                predictions[row, :5, anchor] = torch.tensor(values)
                predictions[row, 5, anchor] = 1
        return predictions, prototypes


@pytest.fixture
def blank_shapes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The network is `BrightBlobs`, empty frames have one value; their shapes are kept here."""
    shapes: list[tuple[int, ...]] = []

    def blank(random: np.random.Generator, *shape: int) -> npt.NDArray[np.uint16]:
        shapes.append(shape)
        return np.full(shape, 100, np.uint16)

    monkeypatch.setattr(trainer, "YoloNetwork", BrightBlobs)
    monkeypatch.setattr(evaluation, "blank_frame", blank)
    return shapes


BOXES = [(20, 24, 20, 28), (64, 60, 24, 24)]


@pytest.mark.parametrize(
    ("shape", "boxes", "network_scale", "frame_scale"),
    [
        pytest.param((100, 100), BOXES, 1.0, 1.0, id="one tile"),
        pytest.param((100, 120, 3), BOXES, 1.0, 1.0, id="RGB"),
        pytest.param((100, 100), BOXES, 2.0, 1.0, id="enlarged"),
        pytest.param((100, 100), BOXES, 2.0, 1.5, id="enlarged, of a coarser data set"),
        pytest.param((100, 100), BOXES, 0.5, 1.0, id="reduced"),
        pytest.param((90, 1100), [*BOXES, (10, 630, 20, 20)], 1.0, 1.0, id="a cell on the seam"),
    ],
)
def test_cells_are_found_as_they_are_served(
    make_dataset: MakeDataset,
    blank_shapes: list[tuple[int, ...]],
    shape: tuple[int, ...],
    boxes: list[tuple[int, int, int, int]],
    network_scale: float,
    frame_scale: float,
) -> None:
    dataset = make_dataset(boxes, [], shape=shape)
    frames = tuple(replace(frame, scale=frame_scale) for frame in dataset.frames)
    scale = LearnedScale(network_scale=network_scale, cell_diameter_px=24, largest_cell_px=30)
    chosen = yolo_threshold(None, replace(dataset, frames=frames), scale, seed=0)
    assert chosen.value == pytest.approx(0.64, abs=0.03)  # the middle of 0.4 and 0.9
    assert max(chosen.best) == 1.0
    # Each tile of the two frames has a wrong cell, and each of the empty ones.
    tiles = 2 if shape[1] > NETWORK_SIZE else 1
    assert round(len(boxes) / chosen.precision[0]) - len(boxes) == 2 * tiles + BLANKS
    assert blank_shapes == [(NETWORK_SIZE, NETWORK_SIZE, *(shape[2:] or (1,)))] * BLANKS


def test_the_network_is_that_of_the_training_with_its_boxes_decoded() -> None:
    torch.manual_seed(0)
    network = new_network(2).eval()
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        predictions, prototypes = YoloNetwork(network)(images)
        expected = network(images / 255)[0]
    torch.testing.assert_close(predictions, expected[0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(prototypes, expected[1], rtol=1e-3, atol=1e-3)
    assert network.model[-1].export is False  # it works on a copy


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
