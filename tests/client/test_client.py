"""Both clients through the fake server, and their tries through a transport that fails."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

import cytoserve.client
from cytoserve import AsyncClient, Client, FakeServer, LearnedScale
from cytoserve.codec import cards
from cytoserve.codec.cards import ModelCard
from cytoserve.contract import PIPELINES
from cytoserve.errors import (
    AccessDenied,
    AnswerMalformed,
    DeadlineExceeded,
    FrameTooLarge,
    InvalidSetting,
    PipelineNotServed,
    ServerError,
    ServerUnreachable,
    UnsupportedImage,
    VersionNotServed,
)

SCALES = {
    "scale": "--scale",
    "pixel_size_um": "--pixel-size",
    "cell_diameter_px": "--cell-diameter",
}
SCALE = LearnedScale(network_scale=2.0, cell_diameter_px=30.0, largest_cell_px=60.0)


class Flaky(FakeServer):
    """Raises ``errors`` first, one a call, and keeps the pauses in between."""

    def __init__(self, cells, errors):
        super().__init__(cells)
        self.errors = list(errors)
        self.pauses = []
        self.timeouts = []

    async def infer(self, request, timeout):
        self.timeouts.append(timeout)
        if self.errors:
            raise self.errors.pop(0)
        return await super().infer(request, timeout)

    async def sleep(self, seconds):
        self.pauses.append(seconds)


async def test_both_clients_answer_alike(fake, frame):
    blocking = Client(transport=fake).segment(frame, "yolo", labels=True)
    async with AsyncClient(transport=fake) as client:
        awaited = await client.segment(frame, "yolo", labels=True)
        assert await client.pipelines() == Client(transport=fake).pipelines() == tuple(PIPELINES)
        assert await client.card("yolo") == Client(transport=fake).card("yolo")
        assert await client.models("yolo") == Client(transport=fake).models("yolo") == {}
        assert await client.server_info() == Client(transport=fake).server_info()
    np.testing.assert_array_equal(blocking.boxes, awaited.boxes)
    np.testing.assert_array_equal(blocking.labels, awaited.labels)


def test_cells_carry_the_frame_and_the_classes(fake, frame):
    cells = Client(transport=fake).segment(frame)
    assert cells.frame_shape == frame.shape
    assert cells.class_names == ("RBC", "WBC")
    assert cells.labels is None
    assert fake.requests[-1].model == "yolo_resnet"


def test_thresholds_and_cap_reach_the_server(fake, frame):
    client = Client(transport=fake)
    assert len(client.segment(frame, score_threshold=0.5)) == 2
    cut = client.segment(frame, max_cells=1)
    assert (len(cut), cut.found, cut.capped) == (1, 3, True)


def test_a_fake_server_may_compute_its_answer(cells, frame):
    def brightest(image):
        assert image.shape == (60, 80, 1)
        return cells[: int(image.max() > 0)]

    client = Client(transport=FakeServer(brightest, class_names=("RBC", "WBC")))
    assert len(client.segment(frame)) == 1
    assert len(client.segment(frame * 0)) == 0
    with pytest.raises(ValueError, match="class_names"):
        FakeServer(brightest)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param({"score_threshold": -0.1}, "score_threshold", id="score-below"),
        pytest.param({"score_threshold": math.nan}, "given: nan", id="score-nan"),
        pytest.param({"overlap_threshold": 1.1}, "overlap_threshold", id="overlap-above"),
        pytest.param({"overlap_threshold": "x"}, "given: 'x'", id="overlap-text"),
        pytest.param({"max_cells": 0}, "from 1 to 65535", id="no-cells"),
        pytest.param({"max_cells": 65536}, "from 1 to 65535", id="too-many-cells"),
        pytest.param({"max_cells": 2.5}, "given: 2.5", id="half-a-cell"),
        pytest.param({"timeout": 0}, "above 0", id="no-time"),
        pytest.param({"timeout": math.inf}, "finite", id="endless"),
        pytest.param({"timeout": math.nan}, "finite", id="time-nan"),
        pytest.param({"timeout": 1e10}, "at most 1e+09", id="more-time-than-grpc-has"),
        pytest.param({"score_threshold": True}, "given: True", id="score-bool"),
        *(
            pytest.param({name: value}, f"{name} ({option}) is a number from", id=f"{name}-{value}")
            for name, option in SCALES.items()
            for value in (0, -1.0, math.nan, math.inf, 1e-5, 1e5, "large", True, np.ones(2))
        ),
        pytest.param({"pixel_size_um": "fit"}, "given: 'fit'", id="fit-of-pixel-size"),
        *(
            pytest.param(
                {"scale": 2, name: 0.5},
                "At most one of scale, pixel_size_um, cell_diameter_px (--scale, --pixel-size, "
                f"--cell-diameter) tells the scale; given: scale=2 and {name}=0.5.",
                id=f"scale-and-{name}",
            )
            for name in ("pixel_size_um", "cell_diameter_px")
        ),
        pytest.param(
            {"scale": "fit", "pixel_size_um": 1, "cell_diameter_px": 9},
            "scale='fit' and pixel_size_um=1 and cell_diameter_px=9",
            id="all-three",
        ),
        pytest.param({"pipeline": "yolo9"}, "one of: yolo, yolo_resnet", id="pipeline"),
    ],
)
def test_bad_settings_are_refused_unsent(fake, frame, arguments, told):
    with pytest.raises(InvalidSetting, match=r"given: ") as refusal:
        Client(transport=fake).segment(frame, **arguments)
    assert told in str(refusal.value)
    assert not fake.requests


def test_numpy_numbers_are_settings_too(fake, frame):
    cells = Client(transport=fake).segment(
        frame, score_threshold=np.float32(0.5), max_cells=np.int64(3), timeout=np.float64(5)
    )
    assert len(cells) <= 3
    assert (cells.scores >= 0.5).all()


@pytest.mark.parametrize(
    ("image", "error"),
    [
        pytest.param(np.zeros((3, 3, 4), np.uint8), UnsupportedImage, id="rgba"),
        pytest.param(np.broadcast_to(np.uint8(0), (20_001, 9)), FrameTooLarge, id="large"),
        pytest.param(np.full((9, 9), np.nan, np.float32), UnsupportedImage, id="nan"),
    ],
)
def test_bad_images_are_refused_unsent(fake, image, error):
    with pytest.raises(error):
        Client(transport=fake).segment(image)
    assert not fake.requests


@pytest.mark.parametrize(
    ("learned", "shape", "arguments", "error", "told"),
    [
        pytest.param(
            None,
            (60, 80),
            {"pixel_size_um": 0.5},
            InvalidSetting,
            "given: 0.5 for yolo_resnet, whose training was told none. Give the diameter",
            id="pixel-size-without-a-scale",
        ),
        pytest.param(
            SCALE,
            (60, 80),
            {"pixel_size_um": 0.5},
            InvalidSetting,
            "train again with --pixel-size",
            id="pixel-size-unknown-to-the-model",
        ),
        pytest.param(
            None,
            (60, 80),
            {"cell_diameter_px": 20},
            InvalidSetting,
            "whose card tells none. Give a factor instead (scale, --scale)",
            id="diameter-without-a-scale",
        ),
        pytest.param(
            SCALE,
            (20_000, 9),
            {},
            FrameTooLarge,
            "at most 32,768 px; given: 20,000 px at 2 network pixels per frame pixel, 40,000 px. "
            'Give a smaller scale (--scale), or scale="fit" (--scale fit)',
            id="long-frame",
        ),
        pytest.param(
            None, (60, 80), {"scale": 500}, FrameTooLarge, "given: 80 px at 500", id="large-scale"
        ),
        pytest.param(
            None,
            (60, 80),
            {"scale": 400},
            FrameTooLarge,
            "no window fits a request. Bin the frame, or give a scale nearer to 1 (--scale)",
            id="tiles-of-a-few-pixels",
        ),
        pytest.param(
            None,
            (20_000, 20_000, 3),
            {"scale": "fit"},
            FrameTooLarge,
            "overlap by the largest cells, here 4,008 px; given: 20,000 x 20,000 px at 0.032",
            id="fit-beyond-a-request",
        ),
    ],
)
def test_what_does_not_suit_the_model_is_refused_before_a_frame_is_sent(
    cells, learned, shape, arguments, error, told
):
    fake = FakeServer(cells, scale=learned)
    with pytest.raises(error) as refusal:
        Client(transport=fake).segment(np.broadcast_to(np.uint8(0), shape), **arguments)
    assert told in str(refusal.value)
    assert {request.model for request in fake.requests} <= {"yolo_resnet_card"}


@pytest.mark.parametrize(
    ("learned", "given", "used"),
    [
        pytest.param(None, None, 0.25, id="of-the-contract"),
        pytest.param(0.7, None, 0.7, id="of-the-card"),
        pytest.param(0.0, None, 0.0, id="of-the-card-zero"),
        pytest.param(0.7, 0.1, 0.1, id="of-the-caller"),
        pytest.param(0.7, 0.0, 0.0, id="of-the-caller-zero"),
    ],
)
async def test_the_threshold_is_the_callers_or_the_cards(cells, frame, learned, given, used):
    fake = FakeServer(cells, threshold=learned)
    found = Client(transport=fake).segment(frame, score_threshold=given)
    awaited = await AsyncClient(transport=fake).segment(frame, score_threshold=given)
    for each in (found, awaited):
        assert each.score_threshold == used
        assert each.scores.tolist() == cells.scores[cells.scores >= used].tolist()


@pytest.mark.parametrize(
    ("arguments", "factor"),
    [
        pytest.param({}, 1, id="untold"),
        pytest.param({"scale": 0.5}, 0.5, id="scale"),
        pytest.param({"scale": "fit"}, 640 / 80 / 2, id="fit"),
        pytest.param({"cell_diameter_px": 10}, 3, id="diameter"),
        pytest.param({"pixel_size_um": 1}, 4, id="pixel-size"),
    ],
)
async def test_the_scale_goes_to_the_server_and_comes_back(cells, frame, arguments, factor):
    fake = FakeServer(cells, scale=replace(SCALE, pixel_size_um=0.25))
    found = Client(transport=fake).segment(frame, **arguments)
    awaited = await AsyncClient(transport=fake).segment(frame, **arguments)
    assert found.scale == awaited.scale == factor
    sent = [request.inputs["scale"] for request in fake.requests if request.model == "yolo_resnet"]
    assert sent == [[2 * factor]] * 2


def test_ready_cells_of_another_frame_are_cut_to_the_frame(fake, cells):
    """They are cut as a ready foreground is."""
    found = Client(transport=fake).segment(np.zeros((30, 80), np.uint8))
    np.testing.assert_array_equal(found.boxes, cells.boxes[:1])
    assert (found.found, found.frame_shape) == (1, (30, 80))


def test_a_pipeline_that_is_not_served_names_those_that_are(cells, frame):
    client = Client(transport=FakeServer(cells, pipelines=("yolo",)))
    with pytest.raises(PipelineNotServed) as refusal:
        client.segment(frame, "yolo_resnet")
    assert refusal.value.served == ("yolo",)
    message = str(refusal.value)
    assert "It serves: yolo." in message
    assert "python -m export yolo_resnet" in message


async def test_a_version_is_asked_for_by_name(cells, frame):
    fake = FakeServer(cells, versions=[3, 4])
    client = Client(transport=fake)
    for ask in (
        lambda: client.segment(frame, "yolo", version=3),
        lambda: Client(transport=fake, version=4).segment(frame, "yolo", version=3),
        lambda: Client(transport=fake, version=3).segment(frame, "yolo"),
    ):
        fake.requests.clear()
        assert len(ask()) == len(cells)
        assert {request.model for request in fake.requests} <= {"yolo.3", "yolo_card.3"}
    async with AsyncClient(transport=fake, version=4) as awaiting:
        assert len(await awaiting.segment(frame, "yolo")) == len(cells)
        assert fake.requests[-1].model == "yolo.4"
        assert await awaiting.pipelines() == Client(transport=fake).pipelines()
    fake.requests.clear()
    assert client.card("yolo") == client.card("yolo", version=4)
    assert [request.model for request in fake.requests] == ["yolo_card", "yolo_card.4"]


def test_a_version_that_is_not_offered_is_told_with_the_remedy(fake, frame):
    with pytest.raises(VersionNotServed, match=r"version 2 of 'yolo'.*--versions 2") as refusal:
        Client(transport=fake).segment(frame, "yolo", version=2)
    assert (refusal.value.pipeline, refusal.value.version) == ("yolo", 2)


@pytest.mark.parametrize("version", [0, -1, 1.5, True, "2", 2**31])
def test_bad_versions_are_refused_unsent(fake, frame, version):
    with pytest.raises(InvalidSetting, match="A version is an integer from 1 on"):
        Client(transport=fake).segment(frame, "yolo", version=version)
    with pytest.raises(InvalidSetting, match="A version is an integer from 1 on"):
        Client(transport=fake, version=version)
    assert not fake.requests


def test_a_pipeline_without_its_card_is_told_apart(cells, frame):
    class NoCards(FakeServer):
        async def infer(self, request, timeout):
            if request.model.endswith("_card"):
                raise PipelineNotServed(request.model)
            return await super().infer(request, timeout)

    with pytest.raises(
        ServerError, match=r"none called yolo_card.*python -m export yolo"
    ) as failure:
        Client(transport=NoCards(cells)).segment(frame, "yolo")
    assert not isinstance(failure.value, PipelineNotServed)


def test_the_card_is_asked_for_once(fake, frame, monkeypatch):
    client = Client(transport=fake)
    for _ in range(3):
        client.segment(frame, "yolo")
    assert [request.model for request in fake.requests].count("yolo_card") == 1
    monkeypatch.setattr(cytoserve.client, "CARD_LIFETIME_S", -1.0)
    client.segment(frame, "yolo_resnet")
    client.segment(frame, "yolo_resnet")  # too old at once: new names do arrive
    assert [request.model for request in fake.requests].count("yolo_resnet_card") == 2


def test_the_card_is_asked_for_again_when_the_classes_change(cells, frame):
    server = FakeServer(cells)
    client = Client(transport=server)
    client.segment(frame)
    three = np.pad(cells.class_probs, ((0, 0), (0, 1)))
    server._find = lambda frame, origin: replace(cells, class_probs=three)
    server._class_names = ("RBC", "WBC", "platelet")
    assert client.segment(frame).class_names == ("RBC", "WBC", "platelet")


def test_an_answer_that_fits_no_card_is_refused(cells, frame):
    class Odd(FakeServer):
        async def infer(self, request, timeout):
            if request.model.endswith("_card"):
                return cards.encode_answer(ModelCard("yolo", ("cell",)))
            return await super().infer(request, timeout)

    with pytest.raises(AnswerMalformed, match="class_probs of 1 classes"):
        Client(transport=Odd(cells)).segment(frame)


@pytest.mark.parametrize(
    ("errors", "tries"),
    [
        pytest.param([], 1, id="fine"),
        pytest.param([ServerUnreachable("gone")], 2, id="gone-once"),
        pytest.param([ServerUnreachable("gone")] * 2, 3, id="gone-twice"),
    ],
)
def test_tries_again_while_nobody_answers(cells, errors, tries):
    server = Flaky(cells, errors)
    assert Client(transport=server, timeout=10).card("yolo").class_names == ("RBC", "WBC")
    assert len(server.timeouts) == tries
    assert server.timeouts == sorted(server.timeouts, reverse=True)  # what is left of the deadline
    for pause, mean in zip(server.pauses, (0.2, 0.4), strict=False):
        assert 0.5 * mean <= pause <= 1.5 * mean


@pytest.mark.parametrize(
    ("error", "tries"),
    [
        pytest.param(ServerUnreachable("gone"), 3, id="unreachable"),
        pytest.param(AccessDenied("restricted"), 1, id="denied"),
        pytest.param(ServerError("INVALID_ARGUMENT"), 1, id="server-error"),
        pytest.param(DeadlineExceeded("late"), 1, id="deadline"),
        pytest.param(AnswerMalformed("odd"), 1, id="malformed"),
    ],
)
def test_gives_up_and_never_repeats_what_is_no_outage(cells, error, tries):
    server = Flaky(cells, [error] * 9)
    with pytest.raises(type(error), match=str(error)):
        Client(transport=server).card("yolo")
    assert len(server.timeouts) == tries


def test_does_not_pause_beyond_the_deadline(cells, monkeypatch):
    monkeypatch.setattr("cytoserve.client.FIRST_PAUSE_S", 60.0)
    server = Flaky(cells, [ServerUnreachable("gone")] * 9)
    with pytest.raises(ServerUnreachable):
        Client(transport=server, timeout=10).card("yolo")
    assert server.pauses == []


def test_a_blocking_client_refuses_a_transport_that_suspends(cells):
    import asyncio

    class Suspends(FakeServer):
        async def infer(self, request, timeout):
            await asyncio.sleep(0)
            return await super().infer(request, timeout)

    with pytest.raises(TypeError, match="use AsyncClient"):
        Client(transport=Suspends(cells)).card("yolo")


def test_errors_of_a_fake_finder_reach_the_caller(frame):
    def fails(image):
        raise DeadlineExceeded("too slow")

    with pytest.raises(DeadlineExceeded, match="too slow"):
        Client(transport=FakeServer(fails, class_names=("a",))).segment(frame)
