"""The score threshold of a YOLO, by the cells that its served pipeline would find."""

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
from training.yolo import threshold as module
from training.yolo.decode import COEFFICIENTS
from training.yolo.network import YoloNetwork, new_network
from training.yolo.threshold import yolo_threshold

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

    monkeypatch.setattr(module, "YoloNetwork", BrightBlobs)
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
