"""The answers of the U-Nets: masks by the rule of the client, and one point a nucleus anywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cytoserve.contract import TILE_STEP
from cytoserve.foreground import foreground_mask
from export.unet import steps as foreground_steps
from export.unet.network import LARGEST_RADIUS, Foreground, NucleiCentres
from training.checkpoint import CheckpointError

RADIUS = 6


def test_every_threshold_cuts_where_the_client_says() -> None:
    levels = np.arange(256, dtype=np.uint8)[None]
    for threshold in np.concatenate([np.arange(256) / 255, np.linspace(0, 1, 301)]):
        value = torch.tensor([threshold], dtype=torch.float32)
        probability, mask = Foreground()(torch.from_numpy(levels)[None], value)
        np.testing.assert_array_equal(probability.numpy(), levels)
        np.testing.assert_array_equal(mask.numpy(), foreground_mask(levels, threshold))


def test_the_graph_of_the_foreground_answers_as_the_module_does() -> None:
    step = foreground_steps.foreground()
    assert {figure for case in step.parity.values() for figure in case.values()} == {0.0}


def discs(size: tuple[int, int], *centres: tuple[float, float], value: int = 255) -> np.ndarray:
    """Discs around (x, y) in continuous pixels, uint8 ``[H, W]``."""
    y, x = np.ogrid[: size[0], : size[1]]
    frame = np.zeros(size, np.uint8)
    for cx, cy in centres:
        frame[(x + 0.5 - cx) ** 2 + (y + 0.5 - cy) ** 2 <= RADIUS**2] = value
    return frame


def find(frame: np.ndarray, threshold: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    centres, scores = NucleiCentres(RADIUS)(
        torch.from_numpy(frame)[None], torch.tensor([threshold])
    )
    return centres.numpy(), scores.numpy()


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        pytest.param((40, 50), [], id="none"),
        pytest.param((40, 50), [(20.5, 18.5)], id="one"),
        pytest.param((40, 50), [(0.5, 0.5)], id="corner"),
        pytest.param((40, 50), [(49.5, 20.5)], id="edge"),
        pytest.param((40, 60), [(15.5, 20.5), (28.5, 20.5)], id="touching"),
        pytest.param(
            (200, 200),
            [(x + 0.5, y + 0.5) for y in range(10, 190, 20) for x in range(10, 190, 20)],
            id="many",
        ),
    ],
)
def test_one_centre_a_nucleus(size: tuple[int, int], expected: list[tuple[float, float]]) -> None:
    centres, scores = find(discs(size, *expected))
    assert sorted(map(tuple, centres.tolist())) == sorted(expected)
    assert centres.shape == (len(expected), 2)
    assert scores.shape == (len(expected),)
    assert (scores > 0.8).all()


def test_the_score_is_the_smoothed_probability_and_descends() -> None:
    frame = np.maximum(discs((40, 90), (20.5, 20.5), value=200), discs((40, 90), (60.5, 20.5)))
    centres, scores = find(frame, threshold=0.3)
    np.testing.assert_array_equal(centres[:, 0], [60.5, 20.5])
    # A disc of radius 2 sigma holds 1 - exp(-2) of a Gaussian.
    np.testing.assert_allclose(scores, [0.865, 0.865 * 200 / 255], atol=0.02)
    assert len(find(frame, threshold=float(scores[0]))[0]) == 1
    assert len(find(frame, threshold=0.95)[0]) == 0


def test_equal_scores_come_row_by_row() -> None:
    centres, _ = find(discs((90, 90), (60.5, 20.5), (20.5, 60.5), (20.5, 20.5)))
    assert centres.tolist() == [[20.5, 20.5], [60.5, 20.5], [20.5, 60.5]]


def test_a_plateau_is_one_centre() -> None:
    frame = np.zeros((60, 60), np.uint8)
    frame[20:40, 20:30] = 255
    assert len(find(frame)[0]) == 1
    full, scores = find(np.full((20, 12), 255, np.uint8), threshold=1.0)
    assert full.shape == (1, 2)
    assert scores.tolist() == [1.0]


@pytest.mark.parametrize("size", [(1, 1), (1, 90), (90, 1)])
def test_frames_of_one_pixel(size: tuple[int, int]) -> None:
    assert find(np.zeros(size, np.uint8))[0].shape == (0, 2)
    centres, _ = find(np.full(size, 255, np.uint8))
    assert len(centres) >= 1
    assert (centres < np.array([size[1], size[0]])).all()


def test_a_part_on_the_grid_has_the_centres_of_the_whole() -> None:
    random = np.random.default_rng(0)
    frame = np.where(random.random((400, 500)) < 0.3, 255, 0).astype(np.uint8)
    frame[150:330, 200:390] = 255  # ties
    whole, _ = find(frame, threshold=0.2)
    start, halo = TILE_STEP, 64
    part, _ = find(frame[start:, start:], threshold=0.2)
    part = part + start
    keep = [points[(points >= start + halo).all(axis=1)] for points in (whole, part)]
    assert len(keep[0]) > 20
    assert sorted(map(tuple, keep[0].tolist())) == sorted(map(tuple, keep[1].tolist()))


@pytest.mark.parametrize("radius", [0.5, LARGEST_RADIUS + 1, float("nan")])
def test_radius_that_is_not_supported(radius: float) -> None:
    with pytest.raises(CheckpointError, match="cannot be told apart: 1 to"):
        NucleiCentres(radius)


@pytest.mark.parametrize("radius", [1.0, 7.5, LARGEST_RADIUS])
def test_the_graph_answers_as_the_module_does(radius: float) -> None:
    step = foreground_steps.nuclei_centres(radius)
    assert step.settings == {"radius": radius}
    assert {figure for case in step.parity.values() for figure in case.values()} == {0.0}
