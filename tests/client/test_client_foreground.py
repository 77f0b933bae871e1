"""Both clients and the fake server: what may be asked of which pipeline."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cytoserve import AsyncClient, Client, FakeServer, Foreground
from cytoserve.contract import MAX_WHOLE_FRAME_PIXELS, PIPELINES
from cytoserve.errors import FrameTooLarge, InvalidRequest, InvalidSetting, UnsupportedImage

SEMANTIC = [name for name, pipeline in PIPELINES.items() if pipeline.is_semantic]
OTHERS = [name for name in PIPELINES if name not in SEMANTIC]


def brightness(frame):
    """The first channel's upper 8 bits."""
    return Foreground.from_probability((frame[..., 0] >> 8).astype(np.uint8))


async def test_both_clients_answer_alike(fake, frame):
    blocking = Client(transport=fake).foreground(frame, "nuclei_unet")
    async with AsyncClient(transport=fake) as client:
        awaited = await client.foreground(frame, "nuclei_unet")
    np.testing.assert_array_equal(blocking.probability, awaited.probability)
    np.testing.assert_array_equal(blocking.centres, awaited.centres)
    assert blocking.class_name == awaited.class_name == "nuclei"


@pytest.mark.parametrize("name", SEMANTIC)
def test_every_semantic_pipeline_answers(fake, foreground, frame, name):
    found = Client(transport=fake).foreground(frame, name)
    np.testing.assert_array_equal(found.mask, foreground.mask)
    assert (found.centres is None) == (name != "nuclei_unet")


def test_glioma_is_the_default(fake, frame):
    Client(transport=fake).foreground(frame)
    assert fake.requests[-1].model == "glioma_unet"


def test_the_threshold_reaches_the_server(fake, foreground, frame):
    found = Client(transport=fake).foreground(frame, "nuclei_unet", probability_threshold=0.75)
    np.testing.assert_array_equal(found.mask, foreground.with_threshold(0.75).mask)
    np.testing.assert_array_equal(found.centres, foreground.with_threshold(0.75).centres)
    assert found.threshold == 0.75


def test_a_frame_through_a_socket(client, foreground, frame):
    found = client.foreground(frame, "nuclei_unet")
    np.testing.assert_array_equal(found.probability, foreground.probability)
    np.testing.assert_array_equal(found.centre_scores, foreground.centre_scores)


@pytest.mark.parametrize("name", SEMANTIC)
def test_segment_refuses_semantic_pipelines_by_name(fake, frame, name):
    with pytest.raises(InvalidSetting, match=rf"yolo_resnet, .*; given: '{name}'.*foreground\("):
        Client(transport=fake).segment(frame, name)
    assert not fake.requests


@pytest.mark.parametrize("name", OTHERS)
def test_foreground_refuses_other_pipelines_by_name(fake, frame, name):
    call = "prompt" if PIPELINES[name].is_prompted else "segment"
    with pytest.raises(InvalidSetting, match=rf"nuclei_unet; given: '{name}'.* Call {call}\("):
        Client(transport=fake).foreground(frame, name)
    assert not fake.requests


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param({"probability_threshold": -0.1}, "from 0 to 1", id="threshold-below"),
        pytest.param({"probability_threshold": math.nan}, "given: nan", id="threshold-nan"),
        pytest.param({"probability_threshold": "x"}, "given: 'x'", id="threshold-text"),
        pytest.param({"white_level": 0}, "above 0", id="white-zero"),
        pytest.param({"white_level": -255}, "above 0", id="white-negative"),
        pytest.param({"white_level": math.inf}, "at most 65535", id="white-endless"),
        pytest.param({"white_level": math.nan}, "given: nan", id="white-nan"),
        pytest.param({"white_level": 1e-50}, "above 0", id="white-zero-as-float32"),
        pytest.param({"white_level": "white"}, "given: 'white'", id="white-text"),
        pytest.param(
            {"white_level": 255, "pipeline": "glioma_unet"}, "taken by nuclei_unet", id="white-of"
        ),
        pytest.param({"timeout": 0}, "above 0", id="no-time"),
        pytest.param({"pipeline": "unet"}, "one of: yolo", id="pipeline"),
    ],
)
def test_bad_settings_are_refused_unsent(fake, frame, arguments, told):
    with pytest.raises(InvalidSetting, match=r"given: ") as refusal:
        Client(transport=fake).foreground(frame, **{"pipeline": "nuclei_unet", **arguments})
    assert told in str(refusal.value)
    assert not fake.requests


@pytest.mark.parametrize("name", SEMANTIC)
@pytest.mark.parametrize(
    ("image", "told"),
    [
        pytest.param(np.zeros((3, 3, 4), np.uint8), "alpha", id="4-channels"),
        pytest.param(np.array([[0, np.nan]]), "1 values NaN", id="nan"),
        pytest.param(np.array([[0, 255.0]]), "within 0..1", id="float-above-1"),
        pytest.param(np.zeros((0, 5), np.uint8), "at least one pixel", id="empty"),
        pytest.param(np.zeros((3, 3), bool), "mask is no camera frame", id="bool"),
        pytest.param([[1, 2]], "given: list", id="list"),
    ],
)
def test_bad_images_are_refused_unsent(fake, name, image, told):
    with pytest.raises(UnsupportedImage, match=told):
        Client(transport=fake).foreground(image, name)
    assert not fake.requests


@pytest.mark.parametrize("name", SEMANTIC)
@pytest.mark.parametrize(
    ("image", "area_fraction"),
    [
        pytest.param(np.zeros((9, 1), np.uint16), 0, id="1-pixel-wide"),
        pytest.param(np.zeros((1, 1), np.uint16), 0, id="1x1"),
        pytest.param(np.zeros((20, 30, 3), np.uint16), 0, id="all-black"),
        pytest.param(np.full((20, 30, 3), 65535, np.uint16), 1, id="all-white"),
        pytest.param(np.full((20, 30), 1.0), 1, id="saturated-float"),
    ],
)
def test_plain_frames_are_ordinary(name, image, area_fraction):
    client = Client(transport=FakeServer(foreground=brightness))
    found = client.foreground(image, name)
    assert found.area_fraction == area_fraction
    assert found.frame_shape == image.shape[:2]
    assert found.summary()["components"] == area_fraction


@pytest.mark.parametrize("name", ["glioma_unet", "glioma_unet_livecell"])
def test_frames_beyond_a_whole_frame_pipeline_are_refused(fake, name):
    image = np.broadcast_to(np.uint16(0), (4000, 2001))
    with pytest.raises(FrameTooLarge) as refusal:
        Client(transport=fake).foreground(image, name)
    for part in (f"A frame for {name} ", f"{MAX_WHOLE_FRAME_PIXELS:,} pixels", "8,004,000", "Cut"):
        assert part in str(refusal.value)
    assert not fake.requests
    assert MAX_WHOLE_FRAME_PIXELS >= 2592 * 1952  # the study's frames are served


def test_refusals_are_invalid_requests():
    assert issubclass(InvalidSetting, InvalidRequest)
    assert issubclass(FrameTooLarge, InvalidRequest)


@pytest.mark.parametrize(
    "shape", [pytest.param((30, 40), id="cut"), pytest.param((90, 100), id="continued")]
)
def test_a_fake_foreground_fits_any_frame(fake, foreground, shape):
    found = Client(transport=fake).foreground(np.zeros(shape, np.uint8), "nuclei_unet")
    assert found.frame_shape == shape
    height, width = np.minimum(shape, (60, 80))
    np.testing.assert_array_equal(
        found.probability[:height, :width], foreground.probability[:height, :width]
    )
    assert found.probability[60:].sum() == 0
    assert len(found.centres) == (2 if shape == (30, 40) else 3)


@pytest.mark.parametrize(
    ("arguments", "served"),
    [
        pytest.param(("cells",), OTHERS, id="cells"),
        pytest.param(("foreground",), SEMANTIC, id="foreground"),
        pytest.param(("cells", "foreground"), list(PIPELINES), id="both"),
    ],
)
def test_a_fake_server_serves_what_it_can_answer(request, arguments, served):
    given = {name: request.getfixturevalue(name) for name in arguments}
    assert list(Client(transport=FakeServer(**given)).pipelines()) == served


def test_a_fake_server_without_an_answer_is_refused(cells):
    with pytest.raises(ValueError, match="answers for none"):
        FakeServer()
    with pytest.raises(ValueError, match=r"to serve glioma_unet.*foreground=\.\.\."):
        FakeServer(cells, pipelines=("glioma_unet",))
