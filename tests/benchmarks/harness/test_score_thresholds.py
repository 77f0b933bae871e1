"""The threshold that a pipeline is measured with, and how a result tells it."""

from __future__ import annotations

import pytest

from benchmarks.harness.options import score_threshold_text, score_thresholds
from cytoserve.codec.cards import ModelCard
from cytoserve.contract import SCORE_THRESHOLD


class Cards:
    """A client that knows cards: one pipeline's training chose a threshold, the other's none."""

    def card(self, pipeline: str) -> ModelCard:
        return ModelCard(pipeline, ("cell",), threshold=0.16 if pipeline == "yolo" else None)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param(None, {"yolo": 0.16, "yolo_resnet": SCORE_THRESHOLD}, id="those of the cards"),
        pytest.param(0.0, {"yolo": 0.0, "yolo_resnet": 0.0}, id="a given one, be it 0"),
    ],
)
def test_thresholds(given, expected):
    assert score_thresholds(Cards(), ("yolo", "yolo_resnet"), given) == expected


@pytest.mark.parametrize(
    ("recorded", "text"),
    [
        pytest.param({"yolo": 0.16, "yolo_resnet": 0.16}, "0.16", id="the same for all"),
        pytest.param(
            {"yolo": 0.16, "yolo_resnet": 0.2}, "0.16 (`yolo`), 0.2 (`yolo_resnet`)", id="two"
        ),
    ],
)
def test_text(recorded, text):
    assert score_threshold_text(recorded) == text
