"""Frames beyond one request: windows that are stitched equal the frame as a whole."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np
import pytest

import cytoserve.frame_parts
from cytoserve import (
    AsyncClient,
    Client,
    DeadlineExceeded,
    FakeServer,
    Foreground,
    FrameTooLarge,
    ServerError,
    ServerUnreachable,
    UnsupportedImage,
)
from cytoserve.codec import cards
from cytoserve.codec.cards import ModelCard
from cytoserve.contract import IMAGE, PIPELINES, TILE_MARGIN, TILE_SIZE, TILE_STEP
from cytoserve.frame_parts import CORE_SIDE, HALO, MAX_STITCHED_SIDE, WINDOW_SIDE, windows

NUCLEI = PIPELINES["nuclei_unet"]


def first_channel(frame):
    """Every pixel's own first value, at once."""
    return Foreground.from_probability(frame[..., 0].astype(np.uint8))


def tiled(frame):
    """Do as the server does: clean, tile, look at a tile as a whole, blend, smooth, find peaks."""
    height, width = frame.shape[:2]
    clean = cv2.medianBlur(cv2.GaussianBlur(frame[..., 0], (5, 5), 0), 3).astype(np.float32)
    rows, columns = (-(-length // TILE_STEP) for length in (height, width))
    beyond = [
        (TILE_MARGIN, count * TILE_STEP - length + TILE_MARGIN)
        for count, length in ((rows, height), (columns, width))
    ]
    padded = np.pad(clean, beyond, mode="symmetric")
    ramp = np.minimum(np.arange(TILE_SIZE), np.arange(TILE_SIZE)[::-1]).astype(np.float32) + 1
    weight = ramp[:, None] * ramp
    total, weights = np.zeros_like(padded), np.zeros_like(padded)
    for y in range(0, rows * TILE_STEP, TILE_STEP):
        for x in range(0, columns * TILE_STEP, TILE_STEP):
            place = slice(y, y + TILE_SIZE), slice(x, x + TILE_SIZE)
            tile = np.ascontiguousarray(padded[place])
            seen = 0.5 * cv2.blur(tile, (9, 9)) + 0.5 * tile[::-1] + tile.mean() - 128
            total[place] += weight * seen
            weights[place] += weight
    inside = slice(TILE_MARGIN, TILE_MARGIN + height), slice(TILE_MARGIN, TILE_MARGIN + width)
    probability = np.clip(np.rint(total[inside] / weights[inside]), 0, 255).astype(np.uint8)
    smooth = cv2.GaussianBlur(probability.astype(np.float32) / 255, (25, 25), 4)
    peaks = (smooth == cv2.dilate(smooth, np.ones((15, 15)))) & (smooth >= 0.5)
    y, x = np.nonzero(peaks)
    order = np.argsort(-smooth[y, x], kind="stable")
    centres = np.stack([x, y], axis=1)[order].astype(np.float32) + 0.5
    return Foreground.from_probability(
        probability, centres=centres, centre_scores=smooth[y, x][order]
    )


@pytest.fixture
def small_windows(monkeypatch):
    """Windows of at most 1024 px, so that small frames need many."""
    monkeypatch.setattr(cytoserve.frame_parts, "CORE_SIDE", 4 * TILE_STEP)
    monkeypatch.setitem(PIPELINES, NUCLEI.name, replace(NUCLEI, max_pixels=1024 * 1024))


def textured(shape):
    random = np.random.default_rng(3)
    noise = cv2.GaussianBlur(random.normal(0, 1, shape).astype(np.float32), (0, 0), 6)
    return np.clip(128 + 900 * noise, 0, 255).astype(np.uint8)


def shapes_sent(server):
    return [
        request.inputs[IMAGE.name].shape
        for request in server.requests
        if request.model == NUCLEI.name
    ]


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((1280, 1536), id="multiples-of-the-step"),
        pytest.param((1301, 1411), id="odd"),
        pytest.param((1025, 1025), id="one-pixel-more"),
        pytest.param((3000, 400), id="narrow"),
    ],
)
def test_stitched_windows_equal_the_whole(small_windows, shape):
    frame = textured(shape)
    server = FakeServer(foreground=tiled)
    stitched = Client(transport=server).foreground(frame, NUCLEI.name)
    whole = tiled(frame[..., None].astype(np.uint16))
    assert len(shapes_sent(server)) > 1
    assert max(max(sent) for sent in shapes_sent(server)) <= 1024
    np.testing.assert_array_equal(stitched.probability, whole.probability)
    np.testing.assert_array_equal(stitched.mask, whole.mask)
    assert len(whole.centres) > 20
    np.testing.assert_array_equal(stitched.centre_scores, whole.centre_scores)
    np.testing.assert_array_equal(
        stitched.centres[np.lexsort(stitched.centres.T)],
        whole.centres[np.lexsort(whole.centres.T)],
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("HALO", TILE_STEP, id="halo-too-small"),
        pytest.param("CORE_SIDE", 500, id="windows-off-the-grid"),
    ],
)
def test_what_makes_windows_equal_the_whole_is_needed(small_windows, monkeypatch, name, value):
    monkeypatch.setattr(cytoserve.frame_parts, name, value)
    frame = textured((1301, 1411))
    stitched = Client(transport=FakeServer(foreground=tiled)).foreground(frame, NUCLEI.name)
    whole = tiled(frame[..., None].astype(np.uint16))
    assert (stitched.probability != whole.probability).any()


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((1301, 1411), id="as-large"),
        pytest.param((1200, 1300), id="smaller"),
        pytest.param((1900, 1700), id="larger"),
    ],
)
def test_a_ready_foreground_is_that_of_the_whole_frame(small_windows, shape):
    ready = tiled(textured((1301, 1411))[..., None].astype(np.uint16))
    server = FakeServer(foreground=ready)
    found = Client(transport=server).foreground(np.zeros(shape, np.uint8), NUCLEI.name)
    assert len(shapes_sent(server)) > 1
    height, width = np.minimum(shape, ready.frame_shape)
    expected = np.zeros(shape, np.uint8)
    expected[:height, :width] = ready.probability[:height, :width]
    np.testing.assert_array_equal(found.probability, expected)
    inside = (ready.centres <= shape[::-1]).all(axis=1)
    assert sorted(found.centres.tolist()) == sorted(ready.centres[inside].tolist())


async def test_both_clients_stitch_alike(small_windows):
    frame, server = textured((1100, 1000)), FakeServer(foreground=tiled)
    blocking = Client(transport=server).foreground(frame, NUCLEI.name)
    async with AsyncClient(transport=server) as client:
        awaited = await client.foreground(frame, NUCLEI.name)
    np.testing.assert_array_equal(blocking.probability, awaited.probability)
    np.testing.assert_array_equal(blocking.centres, awaited.centres)


@pytest.mark.parametrize(
    ("shape", "number"),
    [
        pytest.param((1, 1), 1, id="1x1"),
        pytest.param((4096, 4096), 1, id="largest-whole"),
        pytest.param((4096, 4097), 4, id="one-column-more"),
        pytest.param((20_000, 20_000), 64, id="largest"),
        pytest.param((20_000, 300), 8, id="long"),
        pytest.param((1, 20_000), 8, id="a-line"),
        pytest.param((2 * CORE_SIDE, 2 * CORE_SIDE + 1), 6, id="a-core-of-one-column"),
    ],
)
def test_cores_tile_the_frame(shape, number):
    parts = windows((*shape, 3), NUCLEI)
    assert len(parts) == number
    assert sum(
        (part.core_rows.stop - part.core_rows.start)
        * (part.core_columns.stop - part.core_columns.start)
        for part in parts
    ) == np.prod(shape)  # and as corners differ and none overlaps, each pixel once
    rows, columns = (
        {(s.start, s.stop) for s in spans}
        for spans in zip(*((part.core_rows, part.core_columns) for part in parts), strict=True)
    )
    for cores, length in ((rows, shape[0]), (columns, shape[1])):
        edges = sorted(cores)
        assert edges[0][0] == 0
        assert edges[-1][1] == length
        assert all(stop == start for (_, stop), (start, _) in pairwise(edges))
    for part in parts:
        for sent, core, length in (
            (part.rows, part.core_rows, shape[0]),
            (part.columns, part.core_columns, shape[1]),
        ):
            assert sent.start % TILE_STEP == 0
            assert sent.start == 0 or core.start - sent.start == HALO
            assert sent.stop == length or sent.stop - core.stop == HALO
            assert number == 1 or sent.stop - sent.start <= WINDOW_SIDE


@pytest.mark.parametrize(
    "shape", [pytest.param((20_000, 300), id="long"), pytest.param((4500, 3800, 3), id="rgb")]
)
def test_a_mapped_frame_is_read_window_by_window(tmp_path, shape):
    frame = np.memmap(tmp_path / "frame", np.uint8, "w+", shape=shape)
    rows = np.arange(shape[0], dtype=np.uint8)
    frame[:] = (rows[:, None] ^ np.arange(shape[1], dtype=np.uint8)).reshape(
        *shape[:2], *(1,) * (len(shape) - 2)
    )
    server = FakeServer(foreground=first_channel)
    found = Client(transport=server).foreground(frame, NUCLEI.name, probability_threshold=0.2)
    expected = frame[..., 0] if len(shape) == 3 else frame
    np.testing.assert_array_equal(found.probability, expected)
    np.testing.assert_array_equal(found.mask, expected >= 51)
    assert found.threshold == 0.2
    assert max(max(sent) for sent in shapes_sent(server)) <= WINDOW_SIDE
    assert {
        request.inputs["white_level"][0]
        for request in server.requests
        if request.outputs[0] == "probability"
    } == {255}


class Forgetful(FakeServer):
    """Keeps no request, as a server elsewhere."""

    async def infer(self, request, timeout):
        answer = await super().infer(request, timeout)
        self.requests.clear()
        return answer


def test_memory_is_that_of_the_result_and_of_one_window(tmp_path):
    frame = np.memmap(tmp_path / "frame", np.uint8, "w+", shape=(6000, 7000, 3))  # sparse
    client = Client(transport=Forgetful(foreground=first_channel))
    tracemalloc.start()
    found = client.foreground(frame, NUCLEI.name)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    result = found.probability.nbytes + found.mask.nbytes
    window = WINDOW_SIDE**2 * 3 * 2
    assert peak < result + 2.5 * window < frame.size * 2  # less than the frame on the wire


@pytest.mark.parametrize(
    ("frame", "error", "told"),
    [
        pytest.param(
            np.broadcast_to(np.uint8(0), (MAX_STITCHED_SIDE + 1, 10)),
            FrameTooLarge,
            "for nuclei_unet has sides of at most 20000 px",
            id="side",
        ),
        pytest.param(
            np.broadcast_to(np.uint8(0), (5000, 5000, 4)), UnsupportedImage, "alpha", id="rgba"
        ),
    ],
)
def test_frames_beyond_windows_are_refused_unsent(frame, error, told):
    server = FakeServer(foreground=first_channel)
    with pytest.raises(error, match=told):
        Client(transport=server).foreground(frame, NUCLEI.name)
    assert not server.requests


def test_a_nan_in_the_last_window_is_found_before_the_first_is_sent(small_windows):
    frame = np.zeros((1300, 1300), np.float32)
    server = FakeServer(foreground=first_channel)
    client = Client(transport=server)
    assert client.foreground(frame, NUCLEI.name).area_fraction == 0
    server.requests.clear()
    frame[-1, -1] = np.nan
    with pytest.raises(UnsupportedImage, match=r"shape \(1300, 1300\).* 1 values NaN"):
        client.foreground(frame, NUCLEI.name)
    assert not server.requests


class Dying(FakeServer):
    """Raises ``error`` at the inferences in ``at``, counted without cards."""

    def __init__(self, error, at):
        super().__init__(foreground=first_channel)
        self.error, self.at = error, at
        self.asked = 0
        self.timeouts = []

    async def infer(self, request, timeout):
        self.timeouts.append(timeout)
        if request.model == NUCLEI.name:
            self.asked += 1
            if self.asked in self.at:
                raise self.error
        return await super().infer(request, timeout)


def test_a_server_that_dies_in_the_middle_is_told(small_windows):
    server = Dying(ServerUnreachable("gone"), range(3, 99))
    with pytest.raises(ServerUnreachable, match="gone"):
        Client(transport=server).foreground(textured((1300, 1300)), NUCLEI.name)
    assert server.asked == 2 + 3  # two windows, three tries of the third


def test_an_outage_in_the_middle_goes_unnoticed(small_windows):
    server = Dying(ServerUnreachable("gone"), (3, 4, 7))
    frame = textured((1300, 1300))
    found = Client(transport=server).foreground(frame, NUCLEI.name)
    np.testing.assert_array_equal(found.probability, frame)


def test_the_deadline_is_that_of_the_whole_call(small_windows):
    server = Dying(ServerError("never"), ())
    Client(transport=server).foreground(textured((1300, 1300)), NUCLEI.name, timeout=5)
    assert len(server.timeouts) > 9
    assert server.timeouts == sorted(server.timeouts, reverse=True)
    assert server.timeouts[0] <= 5
    with pytest.raises(DeadlineExceeded, match="nuclei_unet"):
        Client(transport=server).foreground(textured((1300, 1300)), NUCLEI.name, timeout=1e-4)


def test_models_that_change_in_the_middle_are_told(small_windows, monkeypatch):
    versions = iter(range(9))

    def exported(card):
        models = {"nuclei_network": {"version": next(versions)}}
        return encode(ModelCard(card.pipeline, card.class_names, models))

    encode = cards.encode_answer
    monkeypatch.setattr(cards, "encode_answer", exported)
    client = Client(transport=FakeServer(foreground=first_channel))
    with pytest.raises(ServerError, match="exported anew in between"):
        client.foreground(textured((1300, 1300)), NUCLEI.name)
