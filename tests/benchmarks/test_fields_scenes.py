"""Rendered scenes, and their truth when they are cropped, shifted and resized."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from benchmarks.fields.scenes import (
    FACTORS,
    OFFSETS,
    Scene,
    cell_count,
    crop,
    crops,
    render_scene,
    resized,
    shifted,
    without_slivers,
)
from cytoserve import cells_from_labels
from training.datasets.annotated import AnnotatedCell


def square(x: int, y: int, side: int = 20) -> AnnotatedCell:
    return AnnotatedCell(x, y, np.ones((side, side), bool), 0)


def scene_of(*cells: AnnotatedCell, height: int = 100, width: int = 120) -> Scene:
    image = np.arange(height * width, dtype=np.uint16).reshape(height, width)
    return Scene("drawn", image, cells)


@pytest.fixture(scope="module")
def rendered() -> Scene:
    return render_scene(400, 500, seed=1)


def frame_mask(cell: AnnotatedCell, shape: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    height, width = cell.mask.shape
    mask[cell.y : cell.y + height, cell.x : cell.x + width] = cell.mask
    return mask


@pytest.mark.parametrize(
    ("height", "width", "cells"),
    [
        pytest.param(640, 640, 15, id="a field of the training"),
        pytest.param(1280, 1280, 60, id="twice as long"),
        pytest.param(2048, 2048, 154, id="a camera's frame"),
        pytest.param(1000, 300, 11, id="a strip"),
        pytest.param(64, 64, 1, id="tiny: one cell at least"),
    ],
)
def test_cells_lie_as_densely_in_any_size(height, width, cells):
    assert cell_count(height, width) == cells


def test_a_scene_has_the_size_and_the_cells_that_were_asked_for(rendered):
    assert (rendered.image.dtype, rendered.shape) == (np.uint16, (400, 500))
    assert len(rendered.cells) == cell_count(400, 500) == 7
    diameters = [2 * np.sqrt(cell.area / np.pi) for cell in rendered.cells]
    assert 15 < np.mean(diameters) < 50  # the training's are 36 on average
    np.testing.assert_array_equal(render_scene(400, 500, seed=1).image, rendered.image)


@pytest.mark.parametrize(
    ("cell", "kept", "sliver"),
    [
        pytest.param(square(30, 30), (10, 5, 400), None, id="whole"),
        pytest.param(square(10, 40), (0, 15, 200), None, id="half of it"),
        pytest.param(square(9, 40), None, (0, 15, 180), id="less than half"),
        pytest.param(square(70, 65), None, (50, 40, 100), id="a corner"),
        pytest.param(square(0, 0), None, None, id="beside the crop"),
        pytest.param(square(80, 30), None, None, id="next to its edge"),
        pytest.param(square(15, 20, 80), None, (0, 0, 3000), id="larger than the crop"),
    ],
)
def test_a_crop_keeps_what_it_shows_of_a_cell(cell, kept, sliver):
    part = crop(scene_of(cell), x=20, y=25, height=50, width=60)
    shown = [(c.x, c.y, c.area) for c in part.cells], [(c.x, c.y, c.area) for c in part.slivers]
    assert shown == ([kept] if kept else [], [sliver] if sliver else [])
    np.testing.assert_array_equal(part.image, scene_of().image[25:75, 20:80])
    assert part.origin == (20, 25)


def test_a_crop_of_a_crop_knows_its_place_and_keeps_slivers():
    first = crop(scene_of(square(9, 40)), x=20, y=25, height=50, width=60)
    second = crop(first, x=0, y=10, height=30, width=30)
    assert second.origin == (20, 35)
    assert [(sliver.x, sliver.y) for sliver in second.slivers] == [(0, 5)]


@pytest.mark.parametrize(
    ("x", "y", "height", "width"),
    [
        pytest.param(-1, 0, 10, 10, id="left"),
        pytest.param(0, 91, 10, 10, id="below"),
        pytest.param(0, 0, 10, 121, id="wider than the scene"),
    ],
)
def test_a_crop_outside_the_scene_is_refused(x, y, height, width):
    with pytest.raises(ValueError, match=r"A crop lies inside its scene of 120 x 100 pixels"):
        crop(scene_of(), x, y, height, width)


@pytest.mark.parametrize(
    ("height", "width", "places"),
    [
        pytest.param(50, 50, [(0, 0)], id="one"),
        pytest.param(100, 50, [(0, 0), (0, 50)], id="side by side"),
        pytest.param(50, 120, [(0, 0), (50, 0), (70, 0)], id="the last overlaps"),
    ],
)
def test_crops_cover_the_scene(height, width, places):
    scene = scene_of(height=height, width=width)
    assert [part.origin for part in crops(scene, side=50)] == places


def test_shifted_versions_show_the_same_cells_elsewhere(rendered):
    versions = shifted(rendered, [(0, 0), *OFFSETS])
    assert len(OFFSETS) == 8
    assert len({version.shape for version in versions}) == 1
    for version in versions:
        x, y = version.origin
        height, width = version.shape
        np.testing.assert_array_equal(version.image, rendered.image[y : y + height, x : x + width])
        for cell in (*version.cells, *version.slivers):
            places = frame_mask(cell, version.shape)
            sources = [frame_mask(c, rendered.shape) for c in rendered.cells]
            assert any(
                np.array_equal(places, source[y : y + height, x : x + width]) for source in sources
            )


@pytest.mark.parametrize(
    ("found", "kept"),
    [
        pytest.param([square(0, 15, 10)], 0, id="on the sliver"),
        pytest.param([square(4, 15, 10)], 1, id="half beside it"),
        pytest.param([square(5, 15, 10)], 1, id="mostly beside it"),
        pytest.param([square(30, 30, 10), square(0, 20, 8)], 1, id="one of two"),
        pytest.param([], 0, id="none found"),
    ],
)
def test_finds_on_slivers_are_neither_right_nor_wrong(found, kept):
    part = crop(scene_of(square(9, 40)), x=20, y=25, height=50, width=60)  # shows 9 px of it
    labels = sum(
        (index * frame_mask(cell, part.shape) for index, cell in enumerate(found, 1)),
        np.zeros(part.shape, int),
    )
    cells = cells_from_labels(labels, np.zeros(len(found), int), ("cell",))
    assert len(without_slivers(cells, part)) == kept
    assert len(without_slivers(cells, scene_of(height=50, width=60))) == len(found)


@pytest.mark.parametrize("factor", FACTORS)
def test_a_resized_scene_takes_its_truth_along(rendered, factor):
    scene = resized(rendered, factor)
    assert scene.image.dtype == rendered.image.dtype
    assert scene.shape == tuple(round(side * factor) for side in rendered.shape)
    assert len(scene.cells) == len(rendered.cells)
    for cell, old in zip(scene.cells, rendered.cells, strict=True):
        assert cell.class_id == old.class_id
        whole = frame_mask(old, rendered.shape).astype(np.float32)
        expected = cv2.resize(whole, scene.shape[::-1], interpolation=cv2.INTER_LINEAR) >= 0.5
        mask = frame_mask(cell, scene.shape)
        assert np.count_nonzero(mask & expected) / np.count_nonzero(mask | expected) > 0.98
        assert cell.area == pytest.approx(old.area * factor**2, rel=0.05)


def test_a_cell_that_shrinks_to_nothing_is_left_out():
    assert len(resized(scene_of(square(11, 11, 1), square(40, 40)), 0.25).cells) == 1


def test_a_colour_scene_is_resized_alike():
    image = np.full((40, 60, 3), (10, 20, 30), np.uint8)
    assert resized(Scene("colour", image, ()), 0.7).image.shape == (28, 42, 3)
