"""What `yolo_decode` keeps, drops and reports; run as the graph that is served."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cytoserve.contract import STEPS
from export.onnx_session import open_session

ANCHORS = 8400
HEIGHT, WIDTH = 480, 640

Arrays = dict[str, np.ndarray]
Decode = Callable[..., Arrays]
Cell = tuple[float, float, float, float, float, float]


@pytest.fixture(scope="module")
def decode(exported_repository: Path) -> Decode:
    """Runs the exported graph on cells ``(cx, cy, w, h, score of class 0, of class 1)``."""
    session = open_session(exported_repository / "yolo_decode" / "1" / "model.onnx", 1)
    names = [tensor.name for tensor in STEPS["yolo_decode"].outputs]

    def run(
        cells: list[Cell], score: float = 0.25, overlap: float = 0.6, cap: int = 4096
    ) -> Arrays:
        predictions = np.zeros((1, 4 + 2 + 32, ANCHORS), np.float32)
        for anchor, cell in enumerate(cells):
            predictions[0, :6, anchor] = cell
            predictions[0, 6, anchor] = 1.0  # coefficient of the first prototype
        prototypes = np.zeros((1, 32, 160, 160), np.float32)
        prototypes[0, 0] = 5.0
        prototypes[0, 0, :, 120:] = -5.0  # no mask right of x = 480
        feeds = {
            "predictions": predictions,
            "prototypes": prototypes,
            # 640 x 480: no scaling, 80 rows of padding above and below.
            "letterbox": np.array([1, 1, 0, 80, HEIGHT, WIDTH], np.float32),
            "score_threshold": np.array([score], np.float32),
            "overlap_threshold": np.array([overlap], np.float32),
            "max_cells": np.array([cap], np.int32),
        }
        return dict(zip(names, session.run(names, feeds), strict=True))

    return run


def grid(count: int) -> list[Cell]:
    """Cells of 10 x 10 pixels that do not overlap, each better than the one before."""
    return [
        (20.0 + 20 * (i % 20), 100.0 + 20 * (i // 20), 10.0, 10.0, 0.3 + i / 1000, 0.1)
        for i in range(count)
    ]


def test_no_cell(decode: Decode) -> None:
    answer = decode([])
    assert answer["boxes"].shape == (0, 4)
    assert answer["masks"].shape == (0, 56, 56)
    assert answer["detected_probs"].shape == (0, 2)
    assert answer["cells_found"].tolist() == [0]
    assert answer["frame_size"].tolist() == [HEIGHT, WIDTH]


def test_one_cell(decode: Decode) -> None:
    answer = decode([(100, 200, 40, 20, 0.2, 0.9)])
    np.testing.assert_allclose(answer["boxes"], [[80, 110, 120, 130]])
    np.testing.assert_allclose(answer["scores"], [0.9])
    np.testing.assert_allclose(answer["detected_probs"], [[0.2, 0.9]])
    assert answer["detected_ids"].tolist() == [1]
    assert answer["masks"].min() == round(255 / (1 + np.exp(-5)))
    np.testing.assert_array_equal(answer["cell_boxes"], answer["boxes"])
    np.testing.assert_array_equal(answer["cell_masks"], answer["masks"])


def test_sorted_by_score(decode: Decode) -> None:
    scores = decode(grid(50))["scores"]
    assert len(scores) == 50
    assert (np.diff(scores) <= 0).all()


@pytest.mark.parametrize("cap", [1, 49, 50, 51])
def test_cap_is_reported(decode: Decode, cap: int) -> None:
    answer = decode(grid(50), cap=cap)
    assert len(answer["boxes"]) == min(cap, 50)
    assert answer["cells_found"].tolist() == [50]
    assert answer["scores"][0] == pytest.approx(0.349)  # the best are kept


@pytest.mark.parametrize(
    ("threshold", "count"),
    [pytest.param(0.25, 2, id="below both"), (0.5, 1), (0.8, 0)],
)
def test_score_threshold_is_an_input(decode: Decode, threshold: float, count: int) -> None:
    cells = [(100, 200, 20, 20, 0.4, 0.0), (200, 200, 20, 20, 0.0, 0.7)]
    assert len(decode(cells, score=threshold)["boxes"]) == count


@pytest.mark.parametrize(("threshold", "count"), [(0.7, 2), (0.6, 1)])
def test_overlap_threshold_is_an_input(decode: Decode, threshold: float, count: int) -> None:
    cells = [(100, 200, 30, 20, 0.9, 0.0), (106, 200, 30, 20, 0.8, 0.0)]  # IoU 0.667
    assert len(decode(cells, overlap=threshold)["boxes"]) == count


def test_one_cell_has_one_class(decode: Decode) -> None:
    cells = [(100, 200, 20, 20, 0.8, 0.0), (100, 200, 20, 20, 0.0, 0.7)]
    answer = decode(cells)
    assert answer["detected_ids"].tolist() == [0]
    assert answer["cells_found"].tolist() == [1]


def test_boxes_are_clipped_to_the_frame(decode: Decode) -> None:
    boxes = decode([(0, 80, 40, 40, 0.9, 0.0), (460, 560, 40, 60, 0.8, 0.0)])["boxes"]
    np.testing.assert_allclose(boxes, [[0, 0, 20, 20], [440, 450, 480, 480]])


@pytest.mark.parametrize(
    "cell",
    [
        pytest.param((100, 200, 0, 20, 0.9, 0.0), id="no width"),
        pytest.param((100, 30, 40, 40, 0.9, 0.0), id="in the padding only"),
        pytest.param((560, 200, 40, 40, 0.9, 0.0), id="no mask pixel"),
    ],
)
def test_what_is_no_cell(decode: Decode, cell: Cell) -> None:
    answer = decode([cell, (100, 300, 20, 20, 0.5, 0.0)])
    np.testing.assert_allclose(answer["scores"], [0.5])
    assert answer["cells_found"].tolist() == [1]
