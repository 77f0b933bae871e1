from __future__ import annotations

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cytoserve import Cells
from cytoserve.codec import cards, instances
from cytoserve.codec.cards import LearnedAppearance, LearnedScale, ModelCard
from cytoserve.contract import MASK_SIZE, PIPELINES
from cytoserve.errors import AnswerMalformed
from cytoserve.operating_point import OperatingPoint

YOLO = PIPELINES["yolo"]
INSTANCE = [pipeline for pipeline in PIPELINES.values() if pipeline.is_instance]
POINT = OperatingPoint(
    network_scale=1.5,
    tile_overlap=96.0,
    score_threshold=0.4,
    overlap_threshold=0.3,
    max_cells=17,
    frame_scale=0.75,
)


def arrays(dtype, shape, **elements):
    return hnp.arrays(dtype, shape, elements=elements or None)


@st.composite
def any_cells(draw):
    number, classes = draw(st.integers(0, 4)), draw(st.integers(1, 3))
    frame_shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    unit = {"min_value": 0, "max_value": 1, "width": 32}
    scores = draw(hnp.arrays(np.float32, number, elements=st.floats(**unit)))
    return Cells(
        boxes=draw(hnp.arrays(np.float32, (number, 4), elements=st.floats(-2, 12, width=32))),
        scores=np.sort(scores)[::-1],
        class_ids=draw(hnp.arrays(np.int32, number, elements=st.integers(0, classes - 1))),
        class_probs=draw(hnp.arrays(np.float32, (number, classes), elements=st.floats(**unit))),
        patches=draw(hnp.arrays(np.uint8, (number, MASK_SIZE, MASK_SIZE), fill=st.just(9))),
        frame_shape=frame_shape,
        class_names=tuple("abc"[:classes]),
        found=number + draw(st.integers(0, 2)),
    )


@settings(max_examples=60)
@given(any_cells(), st.booleans())
def test_an_answer_comes_back_as_it_went(cells, labels):
    frame = np.zeros(cells.frame_shape, np.uint8)
    request = instances.encode_request(frame, YOLO, POINT, labels)
    back = instances.decode_answer(
        instances.encode_answer(cells, request), request, cells.class_names, POINT
    )
    for name in ("boxes", "scores", "class_ids", "class_probs", "patches"):
        np.testing.assert_array_equal(getattr(back, name), getattr(cells, name))
    assert (back.frame_shape, back.found) == (cells.frame_shape, cells.found)
    assert (back.scale, back.score_threshold) == (0.75, 0.4)
    assert (back.labels is not None) == labels
    np.testing.assert_array_equal(back.label_image(), cells.label_image())


@pytest.mark.parametrize("pipeline", INSTANCE, ids=lambda pipeline: pipeline.name)
@pytest.mark.parametrize("labels", [False, True])
def test_a_request_follows_the_contract(pipeline, labels):
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    request = instances.encode_request(image, pipeline, POINT, labels)
    assert request.model == pipeline.name
    assert list(request.inputs) == [tensor.name for tensor in pipeline.inputs]
    outputs = (*pipeline.outputs, *(pipeline.on_request if labels else ()))
    assert request.outputs == tuple(tensor.name for tensor in outputs)  # and no other
    frame, point = instances.decode_request(request)
    np.testing.assert_array_equal(frame, image)
    assert asdict(point) == pytest.approx(asdict(POINT) | {"frame_scale": 1})


def changed(name, change):
    def spoil(answer):
        answer[name] = change(answer[name])

    return spoil


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        pytest.param(lambda answer: answer.pop("masks"), "output masks", id="missing"),
        pytest.param(changed("boxes", lambda b: b[:, :3]), "boxes FP32 [-1, 4]", id="dims"),
        pytest.param(changed("boxes", lambda b: b.ravel()), "boxes FP32 [-1, 4]", id="rank"),
        pytest.param(changed("scores", lambda s: s.astype(float)), "float64 [3]", id="dtype"),
        pytest.param(changed("class_ids", lambda c: c[:2]), "one row a cell", id="rows"),
        pytest.param(changed("boxes", lambda b: b * np.nan), "finite", id="nan"),
        pytest.param(changed("scores", lambda s: s[::-1]), "descending", id="order"),
        pytest.param(changed("class_ids", lambda c: c + 1), "class_ids from 0 to 1", id="class"),
        pytest.param(changed("class_ids", lambda c: c - 1), "class_ids from 0 to 1", id="negative"),
        pytest.param(
            changed("class_probs", lambda p: p[:, :1]), "class_probs of 2 classes", id="classes"
        ),
        pytest.param(changed("cells_found", lambda f: f * 0), "cells_found", id="found"),
        pytest.param(changed("labels", lambda a: a[1:]), "as large as the frame", id="labels"),
    ],
)
def test_malformed_answers_are_refused(cells, frame, spoil, told):
    request = instances.encode_request(frame, YOLO, POINT, labels=True)
    answer = dict(instances.encode_answer(cells, request))
    instances.decode_answer(answer, request, cells.class_names, POINT)  # whole, it is accepted
    spoil(answer)
    with pytest.raises(AnswerMalformed) as refusal:
        instances.decode_answer(answer, request, cells.class_names, POINT)
    message = str(refusal.value)
    assert told in message
    assert message.startswith("yolo must answer ")
    assert "; given: " in message
    assert "cytoserve doctor" in message


@pytest.mark.parametrize("threshold", [None, 0.0, 0.35, 1.0])
@pytest.mark.parametrize(
    "scale",
    [
        None,
        LearnedScale(1.5, 30, 60),
        LearnedScale(1, 12.5, 14, pixel_size_um=0.65),
        LearnedScale(1, 20, 90, cell_diameters_px=(8, 85)),
    ],
)
@pytest.mark.parametrize("looks", [None, LearnedAppearance(("colour", "grey"), (0, 0.25))])
def test_a_card_comes_back_as_it_went(threshold, scale, looks):
    models = {"yolo_cells": {"version": 3, "sha256": "ab"}}
    card = ModelCard("yolo", ("RBC", "ΩBC"), models, {"a": 1}, threshold, scale, looks)
    assert cards.decode_answer(cards.encode_answer(card), YOLO) == card
    assert card.hashes() == {"yolo_cells": "ab"}


def test_a_card_of_another_version_may_tell_more_or_less():
    told = {"class_names": ["a"], "models": {}, "more": 1}
    scale = {"network_scale": 1, "cell_diameter_px": 2, "largest_cell_px": 3, "more": 4}
    answer = {"card": np.array([json.dumps(told | {"scale": scale}).encode()], object)}
    assert cards.decode_answer(answer, YOLO).scale == LearnedScale(1, 2, 3)
    answer = {"card": np.array([json.dumps(told).encode()], object)}
    assert cards.decode_answer(answer, YOLO) == ModelCard("yolo", ("a",))


def told(**more):
    return json.dumps({"class_names": ["a"], "models": {}} | more)


def scaled(**more):
    scale = {"network_scale": 1, "cell_diameter_px": 2, "largest_cell_px": 3}
    return told(scale=scale | more)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("{", id="no-json"),
        pytest.param("[]", id="list"),
        pytest.param(json.dumps({"models": {}}), id="no-classes"),
        pytest.param(json.dumps({"class_names": [], "models": {}}), id="zero-classes"),
        pytest.param(json.dumps({"class_names": [1], "models": {}}), id="class-of-number"),
        pytest.param(json.dumps({"class_names": ["a"]}), id="no-models"),
        pytest.param(json.dumps({"class_names": ["a"], "models": {"m": 1}}), id="odd-model"),
        pytest.param(told(threshold=1.1), id="threshold-above"),
        pytest.param(told(threshold="high"), id="threshold-of-text"),
        pytest.param(told(threshold=math.nan), id="threshold-nan"),
        pytest.param(told(scale=2), id="scale-of-a-number"),
        pytest.param(told(scale={"network_scale": 1}), id="half-a-scale"),
        pytest.param(scaled(network_scale=None), id="no-network-scale"),
        pytest.param(scaled(network_scale=0), id="network-scale-zero"),
        pytest.param(scaled(cell_diameter_px=-2), id="negative-diameter"),
        pytest.param(scaled(largest_cell_px=math.inf), id="infinite-cells"),
        pytest.param(scaled(pixel_size_um=0), id="pixel-size-zero"),
        pytest.param(scaled(cell_diameters_px=(9, 3)), id="sizes-descending"),
        pytest.param(told(appearance=["grey"]), id="appearance-is-a-list"),
        pytest.param(told(appearance={"kinds": ["grey"]}), id="half-an-appearance"),
        pytest.param(told(appearance={"kinds": [], "background": [0, 1]}), id="no-kind"),
        pytest.param(told(appearance={"kinds": [1], "background": [0, 1]}), id="kind-of-number"),
        pytest.param(told(appearance={"kinds": ["grey"], "background": [0, 2]}), id="background"),
        pytest.param(scaled(cell_diameters_px=(3,)), id="one-size-for-a-range"),
        pytest.param(scaled(cell_diameters_px=4), id="sizes-that-are-a-number"),
        pytest.param("\udcff".encode("utf-8", "surrogateescape"), id="no-utf8"),
    ],
)
def test_malformed_cards_are_refused(text):
    tensor = np.array([text if isinstance(text, bytes) else text.encode()], dtype=object)
    with pytest.raises(AnswerMalformed, match="yolo_card must answer a JSON object"):
        cards.decode_answer({"card": tensor}, YOLO)


def test_a_missing_or_empty_card_is_refused():
    for answer in ({}, {"card": np.empty(0, object)}):
        with pytest.raises(AnswerMalformed):
            cards.decode_answer(answer, YOLO)
