"""Warnings of an answer: each appears for its own sign, and a good answer has none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cytoserve import (
    Cells,
    Client,
    FakeServer,
    LearnedAppearance,
    LearnedScale,
    ModelCard,
    Prompts,
    cells_from_labels,
)
from cytoserve.appearance import Appearance, frame_appearance
from cytoserve.contract import MASK_SIZE, PIPELINES
from cytoserve.doubts import BACKGROUND, CAPPED, COLOURS, EDGES, KINDS, NEAR, SCALE, find_doubts
from training.rendered import RenderSettings, render_frame

SIDE = 400
LEARNED = LearnedScale(network_scale=2.0, cell_diameter_px=20.0, largest_cell_px=60.0)
INSTANCE_PIPELINES = [name for name, pipeline in PIPELINES.items() if pipeline.is_instance]

ROWS, COLUMNS = np.mgrid[:MASK_SIZE, :MASK_SIZE] - (MASK_SIZE - 1) / 2
DISC = np.uint8(255) * (np.hypot(ROWS, COLUMNS) < MASK_SIZE / 2)
CUT = DISC | np.uint8(255) * (COLUMNS > 0)  # runs along the right side
MOSTLY_CUT = DISC | np.uint8(255) * ((COLUMNS > 0) & (np.abs(ROWS) < 0.4 * MASK_SIZE))
FULL = np.full((MASK_SIZE, MASK_SIZE), 255, np.uint8)


def answered(number=8, diameter=20.0, patches=DISC, scores=0.9, x=50.0):
    """``number`` cells of ``diameter`` px, one above the other, from ``x`` to the right."""
    y = 50 + 30.0 * np.arange(number)
    boxes = np.stack([np.full(number, x), y, np.full(number, x + diameter), y + diameter], axis=1)
    return Cells(
        boxes=boxes.astype(np.float32),
        scores=np.sort(np.broadcast_to(np.float32(scores), number))[::-1],
        class_ids=np.zeros(number, np.int32),
        class_probs=np.ones((number, 1), np.float32),
        patches=np.broadcast_to(patches, (number, MASK_SIZE, MASK_SIZE)),
        frame_shape=(SIDE, SIDE),
        class_names=("cell",),
        found=number,
    )


def some(bad, good, number, of=8):
    return np.stack([bad] * number + [good] * (of - number))


def segmented(cells, learned=LEARNED, pipeline="yolo", **settings):
    frame = np.zeros(cells.frame_shape, np.uint8)
    transport = FakeServer(cells, threshold=0.3, scale=learned)
    return Client(transport=transport).segment(frame, pipeline, **settings)


CASES = [
    pytest.param(answered(), {}, [], id="a-good-answer"),
    pytest.param(answered(0), {}, [], id="no-cell"),
    pytest.param(answered(1, 200, FULL, 0.31), {}, [], id="one-cell-says-little"),
    pytest.param(answered(4, 200, FULL, 0.31), {}, [], id="four-cells-say-little"),
    pytest.param(answered(), {"max_cells": 7}, [CAPPED], id="capped"),
    pytest.param(answered(), {"max_cells": 8}, [], id="cap-not-reached"),
    pytest.param(answered(2), {"max_cells": 1}, [CAPPED], id="capped-at-one-cell"),
    pytest.param(answered(5, 52), {}, [SCALE], id="far-larger"),
    pytest.param(answered(5, 7), {}, [SCALE], id="far-smaller"),
    pytest.param(answered(5, 48), {}, [], id="larger"),
    pytest.param(answered(5, 9), {}, [], id="smaller"),
    pytest.param(answered(5, 52), {"cell_diameter_px": 52}, [], id="larger-as-told"),
    pytest.param(answered(5, 52), {"scale": 0.5}, [], id="larger-and-scaled"),
    pytest.param(answered(), {"scale": 3}, [SCALE], id="scaled-too-far"),
    pytest.param(answered(5, 20), {"cell_diameter_px": 60}, [SCALE], id="told-wrongly"),
    pytest.param(answered(patches=some(CUT, DISC, 5)), {}, [EDGES], id="most-are-cut"),
    pytest.param(answered(patches=some(CUT, DISC, 4)), {}, [], id="half-are-cut"),
    pytest.param(answered(patches=CUT.T), {}, [EDGES], id="cut-below"),
    pytest.param(answered(patches=MOSTLY_CUT), {}, [], id="along-four-fifths-of-a-side"),
    pytest.param(answered(patches=CUT[:, ::-1]), {}, [EDGES], id="cut-on-the-left"),
    pytest.param(answered(patches=CUT.T[::-1]), {}, [EDGES], id="cut-above"),
    pytest.param(answered(patches=FULL), {}, [EDGES], id="boxes-are-full"),
    pytest.param(answered(patches=CUT, x=SIDE - 20), {}, [], id="cut-by-the-frame"),
    pytest.param(answered(patches=CUT, x=SIDE - 30), {}, [EDGES], id="cut-before-the-frame-ends"),
    pytest.param(answered(scores=[0.34] * 5 + [0.9] * 3), {}, [NEAR], id="most-score-low"),
    pytest.param(answered(scores=[0.34] * 4 + [0.9] * 4), {}, [], id="half-score-low"),
    pytest.param(answered(scores=0.36), {}, [], id="low-but-not-near"),
    pytest.param(answered(), {"score_threshold": 0.88}, [NEAR], id="near-the-callers"),
    pytest.param(answered(scores=0.01), {"score_threshold": 0}, [], id="nothing-is-dropped"),
    pytest.param(answered(scores=1), {"score_threshold": 0.97}, [], id="high-threshold"),
    pytest.param(
        answered(patches=FULL, diameter=60, scores=0.31),
        {"max_cells": 7},
        [CAPPED, SCALE, EDGES, NEAR],
        id="all-at-once",
    ),
]


@pytest.mark.parametrize(("cells", "settings", "kinds"), CASES)
def test_every_warning_has_its_sign(cells, settings, kinds):
    found = segmented(cells, **settings)
    assert [doubt.kind for doubt in found.doubts] == kinds
    assert found.warnings == tuple(f"{doubt.seen} {doubt.remedy}" for doubt in found.doubts)


@pytest.mark.parametrize(
    ("learned_px", "diameter", "kinds"),
    [
        pytest.param((20, 40), 80, [], id="larger-than-the-largest"),
        pytest.param((20, 40), 120, [SCALE], id="far-larger-than-the-largest"),
        pytest.param((40, 80), 20, [], id="smaller-than-the-least"),
        pytest.param((60, 80), 20, [SCALE], id="far-smaller-than-the-least"),
    ],
)
def test_a_model_of_many_sizes_is_judged_by_its_range(learned_px, diameter, kinds):
    learned = replace(LEARNED, cell_diameters_px=learned_px)
    assert [doubt.kind for doubt in segmented(answered(5, diameter), learned).doubts] == kinds
    if kinds:
        (warning,) = segmented(answered(5, diameter), learned).warnings
        assert f"those of the training {learned_px[0]} to {learned_px[1]} px" in warning


@pytest.mark.parametrize("pipeline", INSTANCE_PIPELINES)
def test_every_instance_pipeline_warns(pipeline):
    full = answered(patches=FULL)
    assert [doubt.kind for doubt in segmented(full, pipeline=pipeline).doubts] == [EDGES]
    assert not segmented(answered(), pipeline=pipeline).doubts


@pytest.mark.parametrize(
    ("cells", "settings", "told"),
    [
        pytest.param(
            answered(), {"max_cells": 7}, ("8 cells found, the best 7 kept", "max_cells"), id=CAPPED
        ),
        pytest.param(
            answered(diameter=60),
            {},
            (
                "the 8 cells found measure 59.6 px",
                "those of the training 20 px",
                "cell_diameter_px",
            ),
            id=SCALE,
        ),
        pytest.param(
            answered(patches=some(CUT, DISC, 5)),
            {},
            ("5 of 8 masks run along a whole side", "Draw the cells"),
            id=EDGES,
        ),
        pytest.param(
            answered(scores=0.31),
            {},
            ("8 of 8 cells score less than 0.05 above the threshold, 0.3:", "score_threshold"),
            id=NEAR,
        ),
    ],
)
def test_a_warning_says_what_was_seen_and_what_to_do(cells, settings, told):
    (warning,) = segmented(cells, **settings).warnings
    for part in told:
        assert part in warning
    assert "--" not in warning  # the command line has its own words


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="usual"),
        pytest.param({"cells": 60, "max_overlap": 0.3, "shrink_to_fit": True}, id="crowded"),
        pytest.param({"cells": 3}, id="few"),
        pytest.param({"mean_diameter": 12.0, "cells": 40}, id="small"),
    ],
)
def test_a_good_answer_on_a_rendered_frame_has_no_warning(settings, seed):
    frame, drawn = render_frame(RenderSettings(**settings), seed)
    labels = np.zeros(frame.shape, np.uint16)
    for number, cell in enumerate(drawn, 1):
        height, width = cell.mask.shape
        labels[cell.y : cell.y + height, cell.x : cell.x + width][cell.mask] = number
    cells = cells_from_labels(labels, np.zeros(len(drawn), int), ("cell",))
    diameter = float(np.median([2 * np.sqrt(cell.mask.sum() / np.pi) for cell in drawn]))
    learned = LearnedScale(1.0, diameter, 3 * diameter)
    found = Client(transport=FakeServer(cells, threshold=0.3, scale=learned)).segment(frame)
    assert len(found) == len(drawn)
    assert found.warnings == ()


def test_size_is_not_judged_without_a_scale_on_the_card():
    assert not segmented(answered(diameter=60), learned=None).doubts


def test_a_frame_in_windows_is_judged_as_a_whole(monkeypatch):
    monkeypatch.setitem(PIPELINES, "yolo", replace(PIPELINES["yolo"], max_pixels=200 * 200))
    cells = answered(12, patches=FULL)
    small = replace(LEARNED, largest_cell_px=20.0)
    transport = FakeServer(cells, threshold=0.3, scale=small)
    frame = np.zeros(cells.frame_shape, np.uint8)
    found = Client(transport=transport).segment(frame, "yolo", labels=True)
    assert len(transport.requests) > 4
    assert len(found) == 12
    assert [doubt.kind for doubt in found.doubts] == [EDGES]
    assert found.warnings[0].startswith("12 of 12 masks")
    assert found.labels is not None


def test_no_request_is_sent_for_them():
    transport = FakeServer(answered(), threshold=0.3, scale=LEARNED)
    Client(transport=transport).segment(np.zeros((SIDE, SIDE), np.uint8), "yolo")
    assert [request.model for request in transport.requests] == ["yolo_card", "yolo"]


def test_a_choice_keeps_the_warnings_of_the_answer():
    found = segmented(answered(patches=FULL))
    assert found[0].warnings == found.of_class("cell").warnings == found.warnings != ()
    assert repr(found).endswith("(cell: 8), warnings: 1>")


def test_prompted_cells_are_not_judged():
    cells = answered(patches=FULL)
    client = Client(transport=FakeServer(cells))
    prompted = client.prompt(np.zeros((SIDE, SIDE), np.uint8), Prompts.from_cells(cells))
    assert len(prompted) == 8
    assert prompted.warnings == ()


def test_boxes_without_area_are_judged_without_a_fault():
    flat = answered()
    flat = replace(flat, boxes=flat.boxes[:, [0, 1, 0, 1]], score_threshold=0.3)
    card = ModelCard("yolo", ("cell",), scale=LEARNED)
    assert [doubt.kind for doubt in find_doubts(flat, Appearance("grey", 0.5), card)] == [SCALE]


FLUORESCENCE = np.zeros((SIDE, SIDE), np.uint16)
FLUORESCENCE[100:160, 100:160] = 3000  # a bright cell on 1.5 % of a dark frame
FLUORESCENCE += 200
BRIGHT_FIELD = 4000 - FLUORESCENCE
NOISE = np.random.default_rng(5).normal(300, 10, (SIDE, SIDE)).astype(np.uint16)
STAINED = np.stack([BRIGHT_FIELD, BRIGHT_FIELD // 2, BRIGHT_FIELD], axis=2)
DARK, BRIGHT = (0.0, 0.12), (0.8, 0.96)
GREY, COLOUR, BOTH = ("grey",), ("colour",), ("colour", "grey")


@pytest.mark.parametrize(
    ("frame", "kinds", "background", "doubts"),
    [
        pytest.param(FLUORESCENCE, GREY, DARK, [], id="as-trained"),
        pytest.param(BRIGHT_FIELD, GREY, DARK, [BACKGROUND], id="bright-field-for-dark"),
        pytest.param(FLUORESCENCE, GREY, BRIGHT, [BACKGROUND], id="fluorescence-for-bright"),
        pytest.param(BRIGHT_FIELD, BOTH, (0.0, 0.96), [], id="a-model-of-all"),
        pytest.param(FLUORESCENCE, BOTH, (0.0, 0.96), [], id="a-model-of-all-dark"),
        pytest.param(NOISE, GREY, DARK, [], id="empty-frame"),
        pytest.param(NOISE, GREY, BRIGHT, [], id="empty-frame-for-bright"),
        pytest.param(np.full_like(NOISE, 7), GREY, BRIGHT, [], id="one-value"),
        pytest.param(STAINED, COLOUR, BRIGHT, [], id="stained-as-trained"),
        pytest.param(STAINED, GREY, BRIGHT, [COLOURS], id="stained-for-grey"),
        pytest.param(BRIGHT_FIELD, COLOUR, BRIGHT, [COLOURS], id="grey-for-stained"),
        pytest.param(np.dstack([BRIGHT_FIELD] * 3), GREY, BRIGHT, [], id="grey-saved-as-colour"),
        pytest.param(STAINED, GREY, DARK, [COLOURS, BACKGROUND], id="both"),
        pytest.param(np.zeros((1, 1), np.uint8), GREY, BRIGHT, [], id="one-pixel"),
    ],
)
def test_a_frame_unlike_those_of_the_training_is_told(frame, kinds, background, doubts):
    """An answer without a cell too: a frame of another kind often has none found."""
    looks = LearnedAppearance(kinds, background)
    transport = FakeServer(answered(0), class_names=("cell",), appearance=looks)
    found = Client(transport=transport).segment(frame, "yolo")
    assert [doubt.kind for doubt in found.doubts] == doubts
    assert len(found.warnings) == len(doubts)


def test_every_kind_of_doubt_is_tried():
    tried = {kind for case in CASES for kind in case.values[2]} | {COLOURS, BACKGROUND}
    assert tried == set(KINDS)


def test_the_look_of_a_large_frame_is_that_of_its_parts():
    small, large = frame_appearance(STAINED), frame_appearance(np.tile(STAINED, (9, 7, 1)))
    assert large.kind == small.kind == "colour"
    assert large.background == pytest.approx(small.background, abs=0.02)
