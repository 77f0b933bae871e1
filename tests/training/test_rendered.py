"""Rendered frames: exact, repeatable, bounded, and of two kinds that look alike in brightness."""

from __future__ import annotations

import hashlib
import json
import time
import tracemalloc
from operator import itemgetter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner
from pydantic import ValidationError

from training.datasets.annotated import AnnotatedCell
from training.datasets.readers import read_annotated
from training.rendered import (
    CLASS_NAMES,
    CrowdedFrameError,
    RenderSettings,
    render_dataset,
    render_frame,
)
from training.rendered.__main__ import main
from training.rendered.frames import phase_contrast
from training.rendered.settings import ROUND, SPREAD
from training.run.command_line import read_data

SMALL = RenderSettings(height=96, width=128, cells=4, mean_diameter=24)


def digest(frame: npt.NDArray[np.uint16]) -> str:
    return hashlib.sha256(frame.tobytes()).hexdigest()


def cells_at(frame_shape: tuple[int, int], cells: tuple[AnnotatedCell, ...]) -> Any:
    """How many cells cover each pixel."""
    covers = np.zeros(frame_shape, int)
    for cell in cells:
        rows, columns = cell.mask.shape
        covers[cell.y : cell.y + rows, cell.x : cell.x + columns] += cell.mask
    return covers


@pytest.fixture(scope="module")
def crowd() -> tuple[npt.NDArray[np.uint16], tuple[AnnotatedCell, ...]]:
    return render_frame(RenderSettings(height=900, width=900, cells=280), 3)


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({"height": 1, "width": 1, "cells": 0}, id="one pixel"),
        pytest.param({"height": 1, "width": 1, "cells": 1}, id="a cell on one pixel"),
        pytest.param({"height": 7, "width": 301, "cells": 2}, id="a strip"),
        pytest.param({"height": 64, "width": 97, "cells": 0}, id="no cell"),
        pytest.param({"height": 90, "width": 90, "cells": 1}, id="one cell"),
        pytest.param(
            {"height": 200, "width": 200, "cells": 300, "shrink_to_fit": True}, id="300 cells"
        ),
        pytest.param({"height": 90, "width": 90, "cells": 1, "round_fraction": 1}, id="round"),
        pytest.param({"height": 90, "width": 90, "cells": 2, "mean_diameter": 6}, id="tiny cells"),
        pytest.param({"height": 90, "width": 90, "cells": 1, "bits": 12}, id="12 bits"),
        pytest.param(
            {"height": 90, "width": 90, "debris": 0, "read_noise": 0, "unevenness": 0}, id="clean"
        ),
    ],
)
def test_any_size_and_number_of_cells(values: dict[str, Any]) -> None:
    settings = RenderSettings(**{"cells": 1, **values})
    frame, cells = render_frame(settings, 0)
    assert (frame.shape, frame.dtype) == ((settings.height, settings.width), np.uint16)
    assert frame.max() < 2**settings.bits
    assert len(cells) == settings.cells
    for cell in cells:
        x0, y0, x1, y1 = cell.box
        assert x0 >= 0
        assert y0 >= 0
        assert x1 <= settings.width
        assert y1 <= settings.height
        assert AnnotatedCell.cut(cell.mask, cell.class_id, x=cell.x, y=cell.y) == cell  # tight


def test_same_seed_same_bytes() -> None:
    first, again, other = (render_frame(SMALL, seed) for seed in (7, 7, 8))
    assert digest(first[0]) == digest(again[0])
    assert first[1] == again[1]
    assert digest(first[0]) != digest(other[0])


def test_threads_do_not_change_the_bytes() -> None:
    threads = cv2.getNumThreads()
    try:
        digests = set()
        for count in (1, 4):
            cv2.setNumThreads(count)
            digests.add(digest(render_frame(RenderSettings(cells=5), 0)[0]))
    finally:
        cv2.setNumThreads(threads)
    assert len(digests) == 1


def test_overlap_is_there_and_bounded(
    crowd: tuple[npt.NDArray[np.uint16], tuple[AnnotatedCell, ...]],
) -> None:
    frame, cells = crowd
    covers = cells_at((frame.shape[0], frame.shape[1]), cells)
    parts = []
    for cell in cells:
        rows, columns = cell.mask.shape
        window = covers[cell.y : cell.y + rows, cell.x : cell.x + columns]
        parts.append(np.count_nonzero((window > 1) & cell.mask) / cell.area)
    assert max(parts) <= RenderSettings().max_overlap
    assert np.count_nonzero(parts) > len(cells) / 5


def test_mean_diameter_is_kept(
    crowd: tuple[npt.NDArray[np.uint16], tuple[AnnotatedCell, ...]],
) -> None:
    frame, cells = crowd
    inside = [
        cell.area
        for cell in cells
        if min(cell.box) > 0 and max(cell.box) < frame.shape[0]  # not cut by the border
    ]
    assert np.mean(2 * np.sqrt(np.array(inside) / np.pi)) == pytest.approx(36, rel=0.1)


def test_a_crowded_frame_is_refused_with_the_remedy() -> None:
    settings = RenderSettings(height=100, width=100, cells=30)
    with pytest.raises(CrowdedFrameError, match=r"of 30 cells .* 100 x 100 .* shrink_to_fit"):
        render_frame(settings, 0)
    assert len(render_frame(settings.model_copy(update={"shrink_to_fit": True}), 0)[1]) == 30


def separation(values: npt.NDArray[np.float64], is_round: npt.NDArray[np.bool_]) -> float:
    """Chance that a round cell has the larger value than a spread one, or the smaller (AUC)."""
    larger = (values[is_round][:, None] > values[~is_round][None]).mean()
    return float(max(larger, 1 - larger))


def solidity(cell: AnnotatedCell) -> float:
    contour = cell.polygon()
    return cv2.contourArea(contour) / cv2.contourArea(cv2.convexHull(contour))


def halo(frame: npt.NDArray[np.uint16], cell: AnnotatedCell) -> float:
    """Brightest light within five pixels of the cell's outline."""
    mask = np.pad(cell.mask, 8).astype(np.uint8)
    ring = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((11, 11), np.uint8)).astype(bool)
    padded = np.pad(frame, 8)
    window = padded[cell.y :, cell.x :][: mask.shape[0], : mask.shape[1]]
    return float(np.percentile(window[ring], 90))


def mean_light(frame: npt.NDArray[np.uint16], cell: AnnotatedCell) -> float:
    rows, columns = cell.mask.shape
    window = frame[cell.y : cell.y + rows, cell.x : cell.x + columns]
    return float(window[cell.mask].mean())


def test_shape_and_halo_tell_the_classes_but_brightness_does_not(
    crowd: tuple[npt.NDArray[np.uint16], tuple[AnnotatedCell, ...]],
) -> None:
    frame, cells = crowd
    is_round = np.array([cell.class_id == ROUND for cell in cells])
    assert CLASS_NAMES[ROUND] == "round"
    assert 0.2 < is_round.mean() < 0.5
    by_shape = separation(np.array([solidity(cell) for cell in cells]), is_round)
    by_halo = separation(np.array([halo(frame, cell) for cell in cells]), is_round)
    by_light = separation(np.array([mean_light(frame, cell) for cell in cells]), is_round)
    assert by_shape > 0.9
    assert by_halo > 0.75
    assert by_light < 0.75


def test_halo_and_shade_off() -> None:
    """A thin disc is dark, paler in its middle than at its rim, and a halo surrounds it."""
    phase = np.zeros((256, 256), np.float32)
    cv2.circle(phase, (128, 128), 40, 0.3, -1)
    light = phase_contrast(phase, pixel_um=0.5, defocus_um=0)[128]
    assert light[5] == pytest.approx(1, abs=0.01)
    assert light[128 - 38] < 0.65 < 0.9 < light[128] < 1.01
    assert light[128 - 45] > 1.1


def test_noise_is_that_of_electrons() -> None:
    """The variance of an empty frame is its mean in electrons, plus the read noise."""
    settings = RenderSettings(
        height=256,
        width=256,
        cells=0,
        debris=0,
        unevenness=0,
        full_well=4000,
        read_noise=5,
        offset=0,
    )
    counts = render_frame(settings, 0)[0].astype(float)
    electrons = counts * settings.full_well / (2**settings.bits - 1)
    noise = (electrons[:, 1::2] - electrons[:, ::2]) / np.sqrt(2)  # the film cancels
    assert electrons.mean() == pytest.approx(0.35 * 4000, rel=0.02)
    assert noise.var() == pytest.approx(electrons.mean() + 25, rel=0.05)


def test_illumination_is_uneven_as_asked() -> None:
    settings = RenderSettings(height=256, width=256, cells=0, debris=0, unevenness=0.4)
    smooth = cv2.GaussianBlur(render_frame(settings, 1)[0].astype(float), (0, 0), 8)
    assert 1 - smooth.min() / smooth.max() == pytest.approx(0.4, abs=0.05)


def test_debris_is_seen_but_not_annotated() -> None:
    clean, dirty = (render_frame(RenderSettings(cells=0, debris=debris), 0) for debris in (0, 8))
    assert clean[1] == dirty[1] == ()
    assert dirty[0].astype(float).std() > 1.2 * clean[0].astype(float).std()


def test_two_thousand_cells_take_time_by_their_area_and_the_memory_of_a_few_frames() -> None:
    def rendered(side: int, count: int) -> tuple[np.ndarray, tuple[AnnotatedCell, ...], float]:
        started = time.process_time()
        frame, cells = render_frame(RenderSettings(height=side, width=side, cells=count), 0)
        return frame, cells, time.process_time() - started

    *_, small = min((rendered(512, 125) for _ in range(3)), key=itemgetter(2))
    frame, cells, large = rendered(2048, 2000)
    assert large < 3 * 16 * small
    assert len(cells) == 2000
    patches = sum(cell.mask.nbytes for cell in cells)
    assert patches < 2 * frame.size


def test_memory_does_not_grow_with_cells_times_frame() -> None:
    peaks = []
    for cells in (0, 100):
        tracemalloc.start()
        render_frame(RenderSettings(height=1024, width=1024, cells=cells), 0)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 20 * 1024 * 1024  # 100 masks of the frame would be 100 MB


def test_data_set_reads_back_exactly(tmp_path: Path) -> None:
    render_dataset(tmp_path, frames=3, settings=SMALL, seed=5)
    dataset = read_annotated(tmp_path)
    assert dataset.class_names == CLASS_NAMES
    assert [frame.path.name for frame in dataset.frames] == [f"frame_000{i}.png" for i in range(3)]
    for index, stored in enumerate(dataset.frames):
        frame, cells = render_frame(SMALL, (5, index))
        np.testing.assert_array_equal(stored.read(), frame)
        assert stored.cells == cells
    info = json.loads((tmp_path / "instances.json").read_text())["info"]
    assert (RenderSettings(**info["settings"]), info["seed"]) == (SMALL, 5)
    assert read_annotated(tmp_path).pixel_size_um == SMALL.pixel_um


def test_a_frame_does_not_depend_on_how_many_there_are(tmp_path: Path) -> None:
    for name, frames in (("few", 1), ("more", 2)):
        render_dataset(tmp_path / name, frames=frames, settings=SMALL, seed=0)
    few, more = (tmp_path / name / "images" / "frame_0000.png" for name in ("few", "more"))
    assert few.read_bytes() == more.read_bytes()


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({"height": 0}, id="no height"),
        pytest.param({"cells": -1}, id="negative cells"),
        pytest.param({"mean_diameter": 2}, id="cells below six pixels"),
        pytest.param({"max_overlap": 0.9}, id="overlap"),
        pytest.param({"bits": 8}, id="8 bits"),
        pytest.param({"exposure": float("nan")}, id="NaN"),
        pytest.param({"cell": 3}, id="unknown name"),
    ],
)
def test_settings_are_checked(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(values))):
        RenderSettings(**values)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        SMALL.height = 5  # type: ignore[misc]


def test_command_renders_a_data_set(tmp_path: Path) -> None:
    options = "--frames 2 --height 80 --width 90 --cells 3 --mean-diameter 20 --bits 12 --seed 4"
    result = CliRunner().invoke(main, [str(tmp_path / "out"), *options.split()])
    assert result.exit_code == 0, result.output
    dataset = read_annotated(tmp_path / "out")
    assert [len(frame.cells) for frame in dataset.frames] == [3, 3]
    assert dataset.frames[0].read().max() < 4096


def test_data_sets_of_other_prefixes_are_trained_on_together(tmp_path: Path) -> None:
    for prefix in ("sparse", "dense"):
        options = (
            f"--frames 1 --height 60 --width 60 --cells 1 --mean-diameter 20 --prefix {prefix}"
        )
        result = CliRunner().invoke(main, [str(tmp_path / prefix), *options.split()])
        assert result.exit_code == 0, result.output
    dataset, _ = read_data((str(tmp_path / "sparse"), str(tmp_path / "dense")), one_class=True)
    names = [frame.path.name for frame in dataset.frames]
    assert names == ["sparse_0000.png", "dense_0000.png"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param("--height 0", "Invalid value for --height: Input should be", id="setting"),
        pytest.param("--height 50 --cells 500", "shrink_to_fit", id="crowded"),
        pytest.param("--frames 0", "Invalid value for '--frames'", id="no frames"),
    ],
)
def test_command_refuses(tmp_path: Path, options: str, message: str) -> None:
    result = CliRunner().invoke(main, [str(tmp_path / "out"), *options.split()])
    assert result.exit_code != 0
    assert message in result.output
    assert not (tmp_path / "out" / "instances.json").exists()


def test_command_documents_every_setting() -> None:
    result = CliRunner().invoke(main, ["--help"])
    for name in RenderSettings.model_fields:
        assert f"--{name.replace('_', '-')}" in result.output


def test_classes_are_numbered_as_named() -> None:
    assert (CLASS_NAMES[SPREAD], CLASS_NAMES[ROUND]) == ("spread", "round")
