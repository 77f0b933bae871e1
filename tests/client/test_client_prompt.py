"""Prompted pipelines: their tensors, both clients, and the fake server."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from cytoserve import (
    AnswerMalformed,
    AsyncClient,
    Client,
    FakeServer,
    FrameTooLarge,
    InvalidPrompts,
    InvalidSetting,
    ModelCard,
    Prompts,
)
from cytoserve.codec import cards, prompted
from cytoserve.contract import MASK_SIZE, MAX_FRAME_BYTES, PIPELINES, SAM_MASK_SIZE
from cytoserve.grpc_transport import CHANNEL_OPTIONS
from cytoserve.prompts import MAX_PROMPTS

PROMPTED = [name for name, pipeline in PIPELINES.items() if pipeline.is_prompted]
SAM = PIPELINES["sam_prompt"]
BOX = (10.0, 12.0, 60.0, 50.0)


@pytest.mark.parametrize(
    ("prompts", "points", "labels"),
    [
        pytest.param(Prompts(boxes=[BOX]), [[[10, 12], [60, 50]]], [[2, 3]], id="box"),
        pytest.param(Prompts(points=[[(7, 8)]]), [[[7, 8], [0, 0]]], [[1, -1]], id="click"),
        pytest.param(
            Prompts(boxes=[BOX], points=[[(7, 8), (9, 9)]], point_labels=[[0, 1]]),
            [[[7, 8], [9, 9], [10, 12], [60, 50]]],
            [[0, 1, 2, 3]],
            id="box-and-clicks",
        ),
        pytest.param(
            Prompts(boxes=[BOX, None], points=[[(7, 8)], [(1, 2)]]),
            [[[7, 8], [10, 12], [60, 50]], [[1, 2], [0, 0], [0, 0]]],
            [[1, 2, 3], [1, -1, -1]],
            id="rows-of-different-length",
        ),
    ],
)
def test_rows_of_points_are_those_of_sam(frame, prompts, points, labels):
    request = prompted.encode_request(frame, SAM, prompts)
    np.testing.assert_array_equal(request.inputs["prompt_points"], points)
    np.testing.assert_array_equal(request.inputs["prompt_labels"], labels)
    assert request.inputs["coarse_masks"].shape == (0, MASK_SIZE, MASK_SIZE)
    assert request.inputs["coarse_boxes"].shape == (0, 4)
    sent, back = prompted.decode_request(request)
    np.testing.assert_array_equal(sent[..., 0], frame)
    assert back.entries() == prompts.entries()


@pytest.mark.parametrize("masks", [False, True], ids=["no masks", "coarse masks"])
@pytest.mark.parametrize("name", PROMPTED)
def test_a_request_follows_the_contract(frame, cells, name, masks):
    prompts = Prompts.from_cells(cells) if masks else Prompts(boxes=cells.boxes)
    pipeline = PIPELINES[name]
    request = prompted.encode_request(frame, pipeline, prompts)
    assert list(request.inputs) == [tensor.name for tensor in pipeline.inputs]
    assert request.outputs == tuple(tensor.name for tensor in pipeline.outputs)
    dtypes = {"UINT16": np.uint16, "FP32": np.float32, "INT32": np.int32, "UINT8": np.uint8}
    for tensor in pipeline.inputs:
        given = request.inputs[tensor.name]
        assert given.dtype == dtypes[tensor.dtype]
        assert len(given.shape) == len(tensor.dims)
        assert all(d in (-1, n) for d, n in zip(tensor.dims, given.shape, strict=True))
    _, back = prompted.decode_request(request)
    np.testing.assert_array_equal(back.masks, prompts.masks)


async def test_cells_come_in_the_order_of_the_prompts(fake, frame, cells):
    order = [2, 0, 1]
    prompts = Prompts.from_cells(cells[order])
    found = Client(transport=fake).prompt(frame, prompts)
    async with AsyncClient(transport=fake) as client:
        awaited = await client.prompt(frame, prompts)
    for each in (found, awaited):
        np.testing.assert_array_equal(each.boxes, cells.boxes[order])
        np.testing.assert_array_equal(each.scores, cells.scores[order])  # not descending
        assert each.patches.shape == (3, SAM_MASK_SIZE, SAM_MASK_SIZE)
        assert (each.counts(), each.capped) == ({"cell": 3}, False)
    assert found.frame_shape == frame.shape
    assert [int(number) for number in np.unique(found.label_image())] == [0, 1, 2, 3]
    assert list(found.table()["class"]) == ["cell"] * 3
    assert all(len(polygon) for polygon in found.polygons())


def test_the_earlier_prompt_keeps_a_pixel(fake, frame, cells):
    better_last = Prompts(boxes=cells.boxes[[2, 1]])  # they overlap
    labels = Client(transport=fake).prompt(frame, better_last).label_image()
    first, second = (
        Client(transport=fake).prompt(frame, Prompts(boxes=[b])) for b in better_last.boxes
    )
    shared = (first.label_image() > 0) & (second.label_image() > 0)
    assert shared.any()
    assert (labels[shared] == 1).all()


def test_a_click_finds_the_cell_below_it(fake, frame, cells):
    prompts = Prompts(points=[[(20, 15)], [(79, 1)]])
    found = Client(transport=fake).prompt(frame, prompts)
    np.testing.assert_array_equal(found.boxes[0], cells.boxes[0])
    assert found.scores.tolist() == [cells.scores[0], 0]
    assert not found.patches[1].any()
    assert found.table()["area"][1] == 0
    assert math.isnan(found.table()["centroid-0"][1])
    assert len(found.polygons()[1]) == 0


def test_prompts_through_a_socket(client, frame, cells):
    found = client.prompt(frame, Prompts.from_cells(cells))
    np.testing.assert_array_equal(found.boxes, cells.boxes)
    found = client.prompt(frame, Prompts(points=[[(20, 15)]]))  # tensors without rows
    np.testing.assert_array_equal(found.boxes, cells.boxes[:1])


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        pytest.param({"prompts": [BOX]}, InvalidPrompts, "given: list", id="list"),
        pytest.param(
            {"prompts": Prompts(boxes=[(0, 0, 81, 5)])},
            InvalidPrompts,
            "in the frame",
            id="outside",
        ),
        pytest.param({"pipeline": "yolo"}, InvalidSetting, "Call segment(", id="instance"),
        pytest.param(
            {"pipeline": "nuclei_unet"}, InvalidSetting, "Call foreground(", id="semantic"
        ),
        pytest.param({"pipeline": "sam"}, InvalidSetting, "sam_prompt", id="unknown"),
        pytest.param(
            {"image": np.broadcast_to(np.uint16(0), (16385, 1))}, FrameTooLarge, "16384", id="large"
        ),
    ],
)
def test_wrong_requests_are_refused_before_anything_is_sent(fake, frame, change, error, told):
    given = {"image": frame, "prompts": Prompts(boxes=[BOX]), "pipeline": "sam_prompt"} | change
    with pytest.raises(error) as refusal:
        Client(transport=fake).prompt(**given)
    assert told in str(refusal.value)
    assert not fake.requests


@pytest.mark.parametrize("name", PROMPTED)
def test_segment_refuses_prompted_pipelines_by_name(fake, frame, name):
    with pytest.raises(InvalidSetting, match=rf"Call prompt\(image, prompts, '{name}'\)"):
        Client(transport=fake).segment(frame, name)
    assert not fake.requests


def changed(name, change):
    def spoil(answer):
        answer[name] = change(answer[name])

    return spoil


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        pytest.param(lambda answer: answer.pop("qualities"), "output qualities", id="missing"),
        pytest.param(changed("prompt_masks", lambda m: m[:, ::2, ::2]), "112, 112]", id="size"),
        pytest.param(changed("prompt_boxes", lambda b: b[:2]), "one row a prompt", id="rows"),
        pytest.param(changed("qualities", lambda q: q * np.nan), "finite", id="nan"),
        pytest.param(changed("prompt_boxes", lambda b: b / 0), "finite", id="infinite"),
        pytest.param(changed("qualities", lambda q: q.astype(float)), "float64", id="dtype"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_malformed_answers_are_refused(fake, frame, cells, spoil, told):
    request = prompted.encode_request(frame, SAM, Prompts.from_cells(cells))
    found = Client(transport=fake).prompt(frame, Prompts.from_cells(cells))
    answer = dict(prompted.encode_answer(found, request))
    prompted.decode_answer(answer, request, ("cell",))  # whole, it is accepted
    spoil(answer)
    with pytest.raises(AnswerMalformed) as refusal:
        prompted.decode_answer(answer, request, ("cell",))
    assert told in str(refusal.value)


def test_a_prompted_card_has_one_class():
    tensors = cards.encode_answer(ModelCard("sam_prompt", ("RBC", "WBC")))
    with pytest.raises(AnswerMalformed, match="one class: what is prompted"):
        cards.decode_answer(tensors, SAM)


def test_the_largest_request_and_answer_fit_the_channel():
    limits = dict(CHANNEL_OPTIONS)
    coarse = MAX_PROMPTS * (MASK_SIZE**2 + 16)
    assert limits["grpc.max_send_message_length"] > MAX_FRAME_BYTES + coarse
    assert limits["grpc.max_receive_message_length"] > MAX_PROMPTS * SAM_MASK_SIZE**2


@pytest.mark.parametrize("name", [n for n, p in PIPELINES.items() if p.is_instance])
@pytest.mark.parametrize("number", [0, 3])
def test_a_fake_server_answers_with_the_patches_of_each_pipeline(frame, cells, name, number):
    found = Client(transport=FakeServer(cells[:number])).segment(frame, name, labels=True)
    (masks,) = (tensor for tensor in PIPELINES[name].outputs if tensor.name == "masks")
    assert found.patches.shape == (number, *masks.dims[1:])
    expected = replace(cells[:number], frame_shape=frame.shape).label_image()
    assert np.mean(found.label_image() != expected) < 0.01
