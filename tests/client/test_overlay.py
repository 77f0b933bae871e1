"""Pictures of cells: what is drawn is what the label image holds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cytoserve import InvalidSetting, overlay
from cytoserve.overlay import (
    COLOURS,
    SIDES,
    draw_foreground,
    draw_overlay,
    draw_scale_bar,
    draw_text,
)

WHITE = (255, 255, 255)


@pytest.mark.parametrize(
    ("shape", "side"),
    [
        pytest.param((60, 80), 640, id="small-is-enlarged-8-times"),
        pytest.param((480, 640, 3), SIDES[0], id="rgb"),
        pytest.param((2048, 2048), 2048, id="as-it-is"),
        pytest.param((5000, 100), SIDES[1], id="large-is-reduced"),
        pytest.param((1, 1), 8, id="1x1"),
        pytest.param((1, 3000, 3), 3000, id="a-line"),
    ],
)
def test_overlay_size(cells, shape, side):
    picture = draw_overlay(np.zeros(shape, np.uint8), cells)
    assert picture.dtype == np.uint8
    assert side in (picture.shape[1], picture.shape[0] - legend_height(picture, shape, side))


def legend_height(picture, shape, side):
    return picture.shape[0] - max(1, round(shape[0] * side / max(shape[:2])))


def test_overlay_draws_every_class_in_its_colour(cells, frame):
    picture = draw_overlay(frame, cells)
    for class_id, polygon in zip(cells.class_ids, cells.polygons(), strict=True):
        column, row = np.rint(polygon[0] * 8 - 0.5).astype(int)
        near = picture[row - 2 : row + 3, column - 2 : column + 3].reshape(-1, 3)
        assert (near == COLOURS[class_id]).all(axis=1).any()


def test_overlay_stretches_a_dim_frame(cells):
    dim = np.full((60, 80), 300, np.uint16)
    dim[:30] = 340
    picture = draw_overlay(dim, cells[:0])
    assert picture[:200].mean() > 250
    assert picture[300:460].mean() < 5


def coloured(picture, colour):
    """Bool ``[h, w]``: the pixels of a colour."""
    return (picture == colour).all(axis=2)


def test_overlay_draws_what_the_label_image_holds(cells, frame):
    """The third cell has an outline along the second, and none inside it."""
    ours = cells[1:]
    picture = draw_overlay(np.zeros_like(frame), ours)[:480]
    owned = np.kron(ours.label_image(), np.ones((8, 8), int))
    drawn = coloured(picture, COLOURS[0])
    assert drawn.any()
    deep = owned.copy()
    for axis in (0, 1):
        for shift in (-6, 6):
            deep[np.roll(owned, shift, axis) != 1] = 0
    assert (deep == 1).any()
    assert not drawn[deep == 1].any()
    assert coloured(draw_overlay(frame, ours[1:])[:480], COLOURS[0])[deep == 1].any()


def test_a_cell_without_a_pixel_is_not_drawn(cells, frame):
    empty = replace(cells[:1], labels=np.zeros((60, 80), np.uint16))
    picture = draw_overlay(frame, empty, numbers=True)
    np.testing.assert_array_equal(picture[:480], draw_overlay(frame, cells[:0])[:480])


@pytest.fixture
def written(monkeypatch):
    """Texts that are drawn on a picture, with x and y in picture pixels."""
    texts = []

    def record(picture, text, x, y, size):
        texts.append((text, x, y))
        draw_text(picture, text, x, y, size)

    monkeypatch.setattr(overlay, "draw_text", record)
    return texts


def test_every_cell_carries_its_number(cells, frame, written):
    draw_overlay(frame, cells)
    assert not written
    draw_overlay(frame, cells, numbers=True)
    labels = cells.label_image()
    assert [text for text, _, _ in written] == ["1", "2", "3"]
    for text, x, y in written:
        assert labels[int(y / 8), int(x / 8)] == int(text)
    assert written[0][1:] == pytest.approx((20.5 * 8, 15.5 * 8), abs=8)


def test_the_number_of_a_bent_cell_lies_on_it(cells, frame, written):
    labels = np.zeros((60, 80), np.uint16)
    labels[5:45, 10:50] = 1
    labels[5:40, 15:45] = 0  # its centroid is in this gap
    boxes = np.array([[10, 5, 50, 45]], np.float32)
    draw_overlay(frame, replace(cells[:1], boxes=boxes, labels=labels), numbers=True)
    [(_, x, y)] = written
    assert labels[int(y / 8), int(x / 8)] == 1


def test_components_carry_their_numbers(foreground, frame, written):
    draw_foreground(frame, foreground, numbers=True)
    labels = foreground.label_image()
    assert [text for text, _, _ in written] == ["1", "2", "3"]
    assert [labels[int(y / 8), int(x / 8)] for _, x, y in written] == [1, 2, 3]


@pytest.mark.parametrize("ground", [0, 128, 255])
@pytest.mark.parametrize("size", [0.43, 1.5])
def test_text_is_seen_on_any_ground(ground, size):
    picture = np.full((100, 300, 3), ground, np.uint8)
    draw_text(picture, "417", 150, 50, size)
    drawn = picture[(picture != ground).any(axis=2)]
    assert (drawn > 240).any() or ground == 255
    assert (drawn < 15).any() or ground == 0
    rows, columns = np.nonzero((picture != ground).any(axis=2))
    assert (rows.mean(), columns.mean()) == pytest.approx((50, 150), abs=3)


@pytest.mark.parametrize("place", [(0, 0), (300, 0), (0, 100), (300, 100)])
def test_text_is_moved_into_the_picture(place):
    inside, moved = (np.zeros((100, 300, 3), np.uint8) for _ in range(2))
    draw_text(inside, "417", 150, 50, 1)
    draw_text(moved, "417", *place, 1)
    assert coloured(moved, WHITE).sum() == coloured(inside, WHITE).sum()


def bar(picture):
    """Length of the longest row of white pixels."""
    rows = np.pad(coloured(picture, WHITE), ((0, 0), (1, 1))).astype(int)
    edges = np.diff(rows, axis=1)
    return int((np.argwhere(edges == -1)[:, 1] - np.argwhere(edges == 1)[:, 1]).max())


@pytest.mark.parametrize(
    ("pixel_size_um", "scale", "width", "length_um", "length"),
    [
        pytest.param(1, 1, 1000, 200, 200, id="a fifth"),
        pytest.param(0.325, 1, 2048, 100, 308, id="0.325 um per pixel"),
        pytest.param(0.1, 2, 1024, 10, 200, id="an enlarged frame"),
        pytest.param(2, 0.5, 4096, 5000, 1250, id="a reduced frame"),
        pytest.param(0.001, 1, 1500, 0.2, 200, id="below 1 um"),
        pytest.param(0.3, 1, 1000, 50, 167, id="60 um: 50 is nearer than 100"),
        pytest.param(0.4, 1, 1000, 100, 250, id="80 um: 100 is nearer than 50"),
    ],
)
def test_scale_bar(pixel_size_um, scale, width, length_um, length, monkeypatch):
    texts = []
    monkeypatch.setattr("cytoserve.overlay.draw_text", lambda picture, text, *_: texts.append(text))
    picture = np.zeros((200, width, 3), np.uint8)
    draw_scale_bar(picture, pixel_size_um, scale)
    assert texts == [f"{length_um:g} um"]
    assert bar(picture) == length
    assert 0.12 <= bar(picture) / width <= 0.34


@pytest.mark.parametrize("draw", ["cells", "foreground"])
def test_overlays_have_a_scale_bar_of_frame_pixels(draw, cells, foreground):
    black = np.zeros((60, 80), np.uint16)  # is drawn 8 times as large
    drawing, result = {
        "cells": (draw_overlay, cells[:0]),
        "foreground": (draw_foreground, replace(foreground, mask=foreground.mask & False)),
    }[draw]
    with_bar = drawing(black, result, pixel_size_um=0.5)[:480]
    assert bar(with_bar) == 20 * 8  # 10 um
    assert (with_bar[440:460, 400:] > 240).any()  # its text
    assert not coloured(drawing(black, result)[:480], WHITE).any()


@pytest.mark.parametrize("pixel_size_um", [0, -0.5, float("nan"), float("inf")])
def test_a_pixel_size_that_is_none(cells, frame, pixel_size_um):
    with pytest.raises(InvalidSetting, match=r"above 0; given: .*\. Pass what"):
        draw_overlay(frame, cells, pixel_size_um=pixel_size_um)


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (20, 20)])
def test_small_frames_take_numbers_and_a_scale_bar(cells, shape):
    cells = replace(cells, frame_shape=shape)
    plain = draw_overlay(np.zeros(shape, np.uint8), cells)
    full = draw_overlay(np.zeros(shape, np.uint8), cells, numbers=True, pixel_size_um=0.2)
    assert full.shape == plain.shape
