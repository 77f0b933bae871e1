"""The score threshold of the largest F1."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from training.evaluation.score_threshold import (
    MAX_TOLERANCE,
    PICTURE,
    THRESHOLDS,
    Frame,
    choose_score_threshold,
    choose_threshold,
    draw_threshold,
)


def frame(right: Sequence[float], wrong: Sequence[float], annotated: int) -> Frame:
    """Scores of cells that stand for annotated ones, and of others."""
    scores = np.array([*right, *wrong], np.float32)
    return scores, np.arange(len(scores)) < len(right), annotated


@pytest.mark.parametrize(
    ("frames", "value", "f1"),
    [
        pytest.param([frame([0.9], [0.3], 1)], 0.58, 1.0, id="the middle of 0.30 to 0.88"),
        pytest.param([frame([0.9] * 3, [], 3)], 0.44, 1.0, id="nothing wrong: below the cells"),
        pytest.param([frame([0.9, 0.2], [0.3] * 9, 2)], 0.58, 2 / 3, id="a cell is not worth nine"),
        pytest.param([frame([0.9, 0.2], [0.3], 2)], 0.1, 0.8, id="but worth one"),
        pytest.param(
            [frame([0.9], [], 1), frame([], [0.5], 0)], 0.68, 1.0, id="an empty frame counts"
        ),
        pytest.param([frame([], [0.5], 4)], 0.5, 0.0, id="nothing right at any threshold"),
        pytest.param([frame([], [], 4)], 0.5, 0.0, id="nothing found"),
    ],
)
def test_the_middle_of_the_best_thresholds_is_chosen(
    frames: list[Frame], value: float, f1: float
) -> None:
    chosen = choose_score_threshold(frames)
    assert chosen.value == pytest.approx(value, abs=0.021)
    assert max(chosen.best) == pytest.approx(f1, abs=1e-4)
    assert (chosen.metric, chosen.thresholds) == ("F1", THRESHOLDS)


@pytest.mark.parametrize("seed", range(4))
def test_the_curve_is_that_of_counting_cells_one_by_one(seed: int) -> None:
    random = np.random.default_rng(seed)
    frames = []
    for _ in range(5):
        right = np.round(random.beta(4, 2, random.integers(0, 30)), 1)  # some equal a threshold
        frames.append(frame(right, random.beta(2, 4, 20), len(right) + int(random.integers(5))))
    chosen = choose_score_threshold(iter(frames))
    for index, threshold in enumerate(THRESHOLDS):
        true = found = annotated = 0
        for scores, matched, count in frames:
            annotated += count
            for score, right in zip(scores, matched, strict=True):
                found += bool(score > np.float32(threshold))
                true += bool(score > np.float32(threshold) and right)
        assert chosen.recall[index] == pytest.approx(true / annotated, abs=1e-4)
        assert chosen.precision[index] == pytest.approx(true / found if found else 1, abs=1e-4)
        f1 = true / (true + (found - true) / 2 + (annotated - true) / 2)
        assert chosen.best[index] == pytest.approx(f1, abs=1e-4)
    assert chosen.best[THRESHOLDS.index(chosen.value)] >= max(chosen.best) - MAX_TOLERANCE - 1e-4


def test_only_the_stretch_around_the_best_threshold_counts() -> None:
    """A second stretch that is nearly as good does not draw the middle into the valley."""
    matched = np.full(len(THRESHOLDS), 50)
    matched[5:8], matched[30:35] = 90, 90
    matched[31] = 91
    found = np.full(len(THRESHOLDS), 100)
    chosen = choose_threshold("Dice", matched, found, 100)
    assert (chosen.value, chosen.metric) == (THRESHOLDS[31], "Dice")


@pytest.mark.parametrize("best", [10, 20], ids=["first", "last"])
def test_a_difference_within_the_tolerance_is_none(best: int) -> None:
    matched = np.full(len(THRESHOLDS), 500)
    matched[10:21] = 900
    matched[best] = 903
    found = np.full(len(THRESHOLDS), 1000)
    assert choose_threshold("F1", matched, found, 1000).value == THRESHOLDS[15]


@pytest.mark.parametrize(
    ("cells", "value"),
    [
        pytest.param(60, 0.34, id="one cell of sixty: the middle of 0.02 to 0.68"),
        pytest.param(10, 0.14, id="one cell of ten is a tenth: the middle of 0.02 to 0.28"),
    ],
)
def test_one_cell_of_many_says_nothing(cells: int, value: float) -> None:
    chosen = choose_score_threshold([frame([0.3, *[0.7] * (cells - 1)], [], cells)])
    assert chosen.value == pytest.approx(value, abs=0.021)


def test_without_annotated_cells_there_is_nothing_to_choose_by() -> None:
    with pytest.raises(ValueError, match="by annotated cells; the validation frames have none"):
        choose_score_threshold([frame([], [0.5], 0)])


def test_the_curve_is_drawn(tmp_path: Path) -> None:
    chosen = choose_score_threshold([frame([0.9, 0.7], [0.3], 3)])
    file = draw_threshold(chosen, tmp_path)
    assert file == tmp_path / PICTURE
    assert cv2.imread(str(file)).shape == (480, 720, 3)
