"""Requests to semantic pipelines and their answers, as tensors."""

from __future__ import annotations

import numpy as np
import pytest

from cytoserve import AnswerMalformed, Foreground
from cytoserve.codec import cards, foregrounds
from cytoserve.codec.cards import ModelCard
from cytoserve.contract import PIPELINES
from cytoserve.settings import ForegroundSettings

NUCLEI = PIPELINES["nuclei_unet"]
SEMANTIC = [pipeline for pipeline in PIPELINES.values() if pipeline.is_semantic]


def answered(foreground, pipeline=NUCLEI, threshold=0.5):
    request = foregrounds.encode_request(
        np.zeros(foreground.frame_shape, np.uint8), pipeline, ForegroundSettings(threshold)
    )
    return dict(foregrounds.encode_answer(foreground, request)), request


@pytest.mark.parametrize("pipeline", SEMANTIC, ids=lambda pipeline: pipeline.name)
def test_a_request_follows_the_contract(pipeline):
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    request = foregrounds.encode_request(image, pipeline, ForegroundSettings(0.3))
    assert set(request.inputs) == {tensor.name for tensor in pipeline.inputs}
    for tensor in pipeline.inputs[1:]:
        assert request.inputs[tensor.name].dtype == np.float32
        assert request.inputs[tensor.name].shape == tensor.dims
    assert request.outputs == tuple(tensor.name for tensor in pipeline.outputs)
    frame, settings = foregrounds.decode_request(request)
    np.testing.assert_array_equal(frame, image)
    assert settings.probability_threshold == pytest.approx(0.3)


@pytest.mark.parametrize("pipeline", SEMANTIC, ids=lambda pipeline: pipeline.name)
@pytest.mark.parametrize("threshold", [0, 0.3, 0.5, 1])
def test_an_answer_comes_back_as_it_went(foreground, pipeline, threshold):
    foreground = Foreground.from_probability(
        foreground.probability, threshold, "a", foreground.centres, foreground.centre_scores
    )
    answer, request = answered(foreground, pipeline, threshold)
    back = foregrounds.decode_answer(answer, request, "a", threshold)
    assert (back.class_name, back.threshold) == ("a", threshold)
    np.testing.assert_array_equal(back.probability, foreground.probability)
    np.testing.assert_array_equal(back.mask, foreground.mask)
    if pipeline is NUCLEI:
        np.testing.assert_array_equal(back.centres, foreground.centres)
        np.testing.assert_array_equal(back.centre_scores, foreground.centre_scores)
    else:
        assert back.centres is None
        assert back.centre_scores is None


@pytest.mark.parametrize(
    ("dtype", "given", "wire"),
    [
        pytest.param(np.uint8, None, 255, id="uint8"),
        pytest.param(np.uint16, None, 65535, id="uint16"),
        pytest.param(">u2", None, 65535, id="big-endian"),
        pytest.param(np.float32, None, 65535, id="float32"),
        pytest.param(np.float16, None, 65535, id="float16"),
        pytest.param(np.uint16, 4095, 4095, id="12-bit"),
        pytest.param(np.float64, 0.5, 32767.5, id="float-in-its-own-values"),
        pytest.param(np.float64, 1.5, 98302.5, id="float-beyond-the-wire"),
    ],
)
def test_the_white_level_on_the_wire(dtype, given, wire):
    image = np.ones((2, 3), dtype)
    request = foregrounds.encode_request(image, NUCLEI, ForegroundSettings(0.5, given))
    assert request.inputs["white_level"].tolist() == [wire]
    assert foregrounds.decode_request(request)[1].probability_threshold == 0.5


def changed(name, change):
    def spoil(answer):
        answer[name] = change(answer[name])

    return spoil


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        pytest.param(lambda answer: answer.pop("mask"), "output mask", id="missing"),
        pytest.param(
            changed("probability", lambda p: p.astype(np.float32)), "UINT8 [-1, -1]", id="dtype"
        ),
        pytest.param(changed("probability", lambda p: p[None]), "UINT8 [-1, -1]", id="rank"),
        pytest.param(
            changed("probability", lambda p: p[1:]), "probability as large as the frame", id="size"
        ),
        pytest.param(changed("mask", lambda m: m[:, 1:]), "mask as large as", id="mask-size"),
        pytest.param(changed("mask", lambda m: m * 255), "mask of 1 where", id="mask-of-255"),
        pytest.param(changed("mask", lambda m: 1 - m), "at least 0.5, else 0", id="mask-inverted"),
        pytest.param(changed("centres", lambda c: c[:, :1]), "centres FP32 [-1, 2]", id="dims"),
        pytest.param(changed("centres", lambda c: c[1:]), "one score a centre", id="rows"),
        pytest.param(changed("centres", lambda c: c * 9), "within the frame", id="outside"),
        pytest.param(changed("centres", lambda c: -c), "within the frame", id="negative"),
        pytest.param(changed("centres", lambda c: c * np.nan), "within the frame", id="nan"),
        pytest.param(
            changed("centre_scores", lambda s: s[::-1].copy()), "descending order", id="order"
        ),
        pytest.param(changed("centre_scores", lambda s: s * 255), "from 0 to 1", id="scores"),
        pytest.param(changed("centre_scores", lambda s: s * np.nan), "from 0 to 1", id="score-nan"),
    ],
)
def test_malformed_answers_are_refused(foreground, spoil, told):
    answer, request = answered(foreground)
    foregrounds.decode_answer(answer, request, "nuclei", 0.5)  # whole, it is accepted
    spoil(answer)
    with pytest.raises(AnswerMalformed) as refusal:
        foregrounds.decode_answer(answer, request, "nuclei", 0.5)
    message = str(refusal.value)
    assert told in message
    assert message.startswith("nuclei_unet must answer ")
    assert "; given: " in message
    assert "cytoserve doctor" in message


def test_a_semantic_card_has_one_class():
    tensors = cards.encode_answer(ModelCard("nuclei_unet", ("background", "nuclei")))
    with pytest.raises(AnswerMalformed, match="one class: its foreground"):
        cards.decode_answer(tensors, NUCLEI)
    assert cards.decode_answer(tensors, PIPELINES["yolo"]).class_names == ("background", "nuclei")
