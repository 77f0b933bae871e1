"""The scale of annotated frames: measured, brought together, recorded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from training.checkpoint import CheckpointError, LearnedScale, new_recipe
from training.datasets.annotated import AnnotatedCell, AnnotatedDataset, AnnotatedFrame
from training.datasets.scale import (
    bring_together,
    describe_scale,
    diameter_range,
    fine_tuning_scale,
    measure_scale,
    recorded_scale,
    scale_for,
)


def disc(diameter: int) -> AnnotatedCell:
    canvas = np.zeros((diameter + 2, diameter + 2), np.uint8)
    middle = ((diameter + 1) / 2, (diameter + 1) / 2)
    cv2.ellipse(canvas, (middle, (diameter - 1, diameter - 1), 0), 1, -1)
    return AnnotatedCell.cut(canvas.astype(bool), 0)


def rod(length: int, width: int) -> AnnotatedCell:
    return AnnotatedCell(0, 0, np.ones((width, length), bool), 0)


def frames(
    *cells: AnnotatedCell, scale: float = 1.0, pixel_size_um: float | None = None, name: str = "f"
) -> AnnotatedDataset:
    """One frame of so many cells; a scale is that of its data set's common one."""
    frame = AnnotatedFrame(Path(f"{name}.png"), 1000, 1000, cells, scale=scale)
    return AnnotatedDataset(("cell",), (frame,), pixel_size_um)


@pytest.mark.parametrize(
    ("cells", "scale", "diameter", "largest"),
    [
        pytest.param([disc(30)], 1.0, 30, 30, id="one"),
        pytest.param([disc(20), disc(30), disc(90)], 1.0, 30, 88.8, id="median and largest"),
        pytest.param([rod(100, 20)], 1.0, 50.46, 100, id="the disc of a rod's area, its length"),
        pytest.param([disc(30)] * 199 + [rod(400, 20)], 1.0, 30, 30, id="an odd giant is left out"),
        pytest.param([disc(15)], 2.0, 30, 30, id="in pixels of the common scale"),
    ],
)
def test_cells_are_measured(
    cells: list[AnnotatedCell], scale: float, diameter: float, largest: float
) -> None:
    measured = measure_scale(frames(*cells, scale=scale, pixel_size_um=0.4))
    assert measured.cell_diameter_px == pytest.approx(diameter, rel=0.05)
    assert measured.largest_cell_px == pytest.approx(largest, rel=0.01)
    assert measured.pixel_size_um == 0.4


@pytest.mark.parametrize(
    ("cells", "given", "expected"),
    [
        pytest.param([disc(30)], None, 1.0, id="as they are"),
        pytest.param([disc(12)], None, 2.0, id="small cells are enlarged"),
        pytest.param([disc(23)], None, 1.0, id="hardly too small"),
        pytest.param([rod(512, 200)], None, 0.5, id="large cells are reduced"),
        pytest.param([rod(270, 100)], None, 1.0, id="hardly too large"),
        pytest.param([*[disc(12)] * 9, *[rod(200, 5)] * 5], None, 1.28, id="small, but some long"),
        pytest.param([disc(12)], 1.0, 1.0, id="given"),
        pytest.param([disc(30)], 1.05, 1.05, id="given, and not rounded to 1"),
    ],
)
def test_the_network_scale_fits_the_cells(
    cells: list[AnnotatedCell], given: float | None, expected: float
) -> None:
    assert measure_scale(frames(*cells), given).network_scale == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(
    ("small", "large", "expected"),
    [
        pytest.param(16, 96, 3.0, id="up to 48 px, although the large cells are still shrunk"),
        pytest.param(24, 36, 1.5, id="up to the large cells' own pixels"),
        pytest.param(60, 120, 1.0, id="cells that are large enough"),
        pytest.param(30, 31, 1.0, id="sets of a similar scale"),
    ],
)
def test_joined_sets_keep_the_pixels_of_large_cells(
    small: int, large: int, expected: float
) -> None:
    """One large cell among many small ones, as in sets of one frame and of many."""
    first, second = frames(*[disc(small)] * 9), frames(disc(large), name="g")
    joined = bring_together([first, second])
    both = replace(first, frames=(*joined[0].frames, *joined[1].frames))
    assert measure_scale(both).network_scale == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("diameter", [23, 30])
def test_a_scale_close_to_1_is_1(diameter: int) -> None:
    assert measure_scale(frames(disc(diameter))).network_scale == 1.0


def test_without_cells_there_is_no_scale() -> None:
    with pytest.raises(ValueError, match=r"none of 1 frames has a cell.*unknown; annotate some"):
        measure_scale(frames())


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        pytest.param(
            frames(disc(30), pixel_size_um=0.5),
            frames(disc(30), pixel_size_um=1.0, name="g"),
            *(2.0,),
            id="by pixel size, whatever the cells",
        ),
        pytest.param(
            frames(disc(40)), frames(disc(20), name="g"), 2.0, id="by diameter, sizes unknown"
        ),
        pytest.param(
            frames(disc(20), pixel_size_um=0.5),
            frames(disc(40), name="g"),
            *(0.5,),
            id="by diameter, one size unknown",
        ),
        pytest.param(
            frames(disc(30), pixel_size_um=0.5),
            frames(disc(90), pixel_size_um=0.54, name="g"),
            *(1.0,),
            id="similar pixels",
        ),
        pytest.param(frames(disc(30)), frames(disc(32), name="g"), 1.0, id="similar cells"),
        pytest.param(frames(disc(30)), frames(name="g"), 1.0, id="no cell to compare"),
        pytest.param(frames(), frames(disc(30), name="g"), 1.0, id="no cell in the first"),
    ],
)
def test_data_sets_are_brought_to_the_scale_of_the_first(
    first: AnnotatedDataset, second: AnnotatedDataset, expected: float
) -> None:
    one, other = bring_together([first, second])
    assert one == first
    assert [frame.scale for frame in other.frames] == [pytest.approx(expected, rel=0.05)]
    assert other.frames[0].cells == second.frames[0].cells


def test_frames_brought_together_show_cells_of_one_size() -> None:
    one, other = bring_together([frames(disc(40)), frames(disc(20), name="g")])
    sizes = [measure_scale(each).cell_diameter_px for each in (one, other)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.01)


def test_the_range_of_sizes_is_that_of_the_frames() -> None:
    sets = [frames(disc(size), name=f"f{size}") for size in (16, 30, 99)]
    joined = AnnotatedDataset(
        ("cell",), (*(s.frames[0] for s in sets), *frames(name="empty").frames)
    )
    least, most = diameter_range(joined)
    assert (least, most) == (pytest.approx(17, abs=2), pytest.approx(92, abs=3))


LEARNED = LearnedScale(network_scale=0.8, cell_diameter_px=40, largest_cell_px=90)


def learned(scale: float, diameter: float, pixel_size_um: float | None) -> LearnedScale:
    return LearnedScale(
        network_scale=scale,
        cell_diameter_px=diameter,
        largest_cell_px=2 * diameter,
        pixel_size_um=pixel_size_um,
    )


MANY_SIZES = LearnedScale(
    network_scale=1.25, cell_diameter_px=20, largest_cell_px=90, cell_diameters_px=(12, 100)
)


@pytest.mark.parametrize(
    ("known", "diameter", "network_scale"),
    [
        pytest.param(None, 40, 1.0, id="random-weights"),
        pytest.param(
            MANY_SIZES.model_copy(update={"cell_diameters_px": None}), 40, 1.0, id="of-one-size"
        ),
        pytest.param(MANY_SIZES, 40, 1.25, id="of-a-size-that-it-knows"),
        pytest.param(MANY_SIZES, 200, 0.625, id="of-larger-ones"),
        pytest.param(MANY_SIZES, 6, 2.5, id="of-smaller-ones"),
    ],
)
def test_fine_tuning_goes_on_at_the_scale_that_a_network_knows(
    known: LearnedScale | None, diameter: float, network_scale: float
) -> None:
    measured = LearnedScale(
        network_scale=1, cell_diameter_px=diameter, largest_cell_px=2 * diameter
    )
    scale = fine_tuning_scale(measured, known)
    assert scale == measured.model_copy(update={"network_scale": network_scale})


@pytest.mark.parametrize(
    ("network", "given", "expected"),
    [
        pytest.param(
            learned(0.8, 40, 0.5),
            learned(1, 40, 1.0),
            learned(1.6, 40, 1.0),
            id="by pixel size: coarser pixels are enlarged",
        ),
        pytest.param(
            learned(0.8, 40, None),
            learned(1, 20, 1.0),
            learned(1.6, 20, 1.0),
            id="by diameter: smaller cells are enlarged",
        ),
        pytest.param(
            learned(0.8, 40, None), learned(1, 38, None), learned(0.8, 38, None), id="similar"
        ),
        pytest.param(learned(0.8, 40, 0.5), None, learned(0.8, 40, 0.5), id="unknown"),
        pytest.param(
            learned(0.8, 40, None).model_copy(update={"cell_diameters_px": (16, 99)}),
            learned(1, 90, None),
            learned(0.8, 90, None),
            id="of a size between those of several data sets",
        ),
        pytest.param(
            learned(0.8, 40, None).model_copy(update={"cell_diameters_px": (16, 99)}),
            learned(1, 198, None),
            learned(0.4, 198, None),
            id="larger than those of all data sets",
        ),
    ],
)
def test_frames_of_other_cells_are_seen_at_the_networks_scale(
    network: LearnedScale, given: LearnedScale | None, expected: LearnedScale
) -> None:
    assert scale_for(network, given) == expected


def test_what_is_told_goes_before_what_is_recorded() -> None:
    facts = {
        "architecture": "yolo11n-seg",
        "class_names": ("cell",),
        "settings": {},
        "data": {},
        "initialised_from": "random",
        "seed": 0,
        "metrics": {},
    }
    recipe, old = new_recipe(**facts, scale=LEARNED), new_recipe(**facts)
    told = LEARNED.model_copy(update={"network_scale": 2.0})
    assert recorded_scale(recipe, Path("runs/a")) == LEARNED
    assert recorded_scale(recipe, Path("runs/a"), told) == told
    assert recorded_scale(old, Path("runs/a"), told) == told
    with pytest.raises(CheckpointError) as caught:
        recorded_scale(old, Path("runs/a"))
    assert str(caught.value) == (
        "runs/a: a network is served at the scale that it was trained at; this recipe, of an "
        "earlier version, records none. Train again, or tell it with --network-scale (network "
        "pixels per frame pixel: what its frames were resized by) and --cell-diameter (median, in "
        "frame pixels)."
    )


def test_a_line_tells_what_was_measured() -> None:
    assert describe_scale(LEARNED) == (
        "cells measure 40 px (median diameter), the largest 90 px; 0.8 network pixels per frame "
        "pixel"
    )
