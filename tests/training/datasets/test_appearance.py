"""What a recipe records of its frames' looks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from training.datasets.annotated import AnnotatedCell, AnnotatedDataset, AnnotatedFrame
from training.datasets.appearance import learned_appearance

CELL = AnnotatedCell(2, 2, np.ones((4, 4), bool), 0)
DARK = np.zeros((50, 50), np.uint8)
DARK[10:15, 10:15] = 200
BRIGHT = 255 - DARK
STAINED = np.dstack([BRIGHT, BRIGHT // 2, BRIGHT])
CONSTANT = np.full((50, 50), 9, np.uint8)


def dataset(folder: Path, *images: npt.NDArray[np.uint8]) -> AnnotatedDataset:
    frames = []
    for number, image in enumerate(images):
        path = folder / f"{number}.png"
        cv2.imwrite(str(path), image)
        frames.append(AnnotatedFrame(path, *image.shape[:2], (CELL,)))
    return AnnotatedDataset(("cell",), tuple(frames))


@pytest.mark.parametrize(
    ("images", "kinds", "background"),
    [
        pytest.param([DARK], ("grey",), (0, 0), id="dark"),
        pytest.param([DARK, BRIGHT], ("grey",), (0, 1), id="dark-and-bright"),
        pytest.param([STAINED], ("colour",), (1, 1), id="stained"),
        pytest.param([STAINED, DARK], ("colour", "grey"), (0, 1), id="both"),
        pytest.param([np.dstack([DARK] * 3)], ("grey",), (0, 0), id="grey-in-three-channels"),
        pytest.param([CONSTANT, BRIGHT], ("grey",), (1, 1), id="a-constant-frame-tells-nothing"),
    ],
)
def test_frames_with_cells_are_measured(tmp_path, images, kinds, background):
    looks = learned_appearance(dataset(tmp_path, *images))
    assert looks is not None
    assert looks.kinds == kinds
    assert looks.background == pytest.approx(background, abs=0.01)


def test_frames_without_cells_are_left_out(tmp_path):
    both = dataset(tmp_path, DARK, STAINED)
    empty = replace(both.frames[1], cells=())
    looks = learned_appearance(replace(both, frames=(both.frames[0], empty)))
    assert looks is not None
    assert looks.kinds == ("grey",)


def test_nothing_is_learned_from_constant_frames(tmp_path):
    assert learned_appearance(dataset(tmp_path, CONSTANT)) is None
