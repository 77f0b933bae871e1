"""Cells of frames beyond one request: every cell is found once, whatever window it lies in."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cytoserve import (
    AsyncClient,
    Cells,
    Client,
    DeadlineExceeded,
    FakeServer,
    LearnedScale,
    ServerError,
    UnsupportedImage,
)
from cytoserve.codec import cards
from cytoserve.codec.cards import ModelCard
from cytoserve.contract import IMAGE, MASK_SIZE, MAX_TILES, PIPELINES
from cytoserve.frame_parts import cell_windows
from cytoserve.frames import request_limits
from cytoserve.operating_point import operating_point
from cytoserve.settings import Settings

YOLO, MASKRCNN = PIPELINES["yolo"], PIPELINES["maskrcnn"]
NAMES = ("even", "odd")
SIZES = LearnedScale(network_scale=1.0, cell_diameter_px=20.0, largest_cell_px=40.0)
HALO = 48
"""Frame pixels by which windows overlap at SIZES."""


@pytest.fixture(scope="module", autouse=True)
def small_requests():
    """Requests of at most 200 x 200 px, so that small frames need many windows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PIPELINES, "yolo", replace(YOLO, max_pixels=200 * 200))
        yield


def discs(shape, circles):
    """Labels ``[H, W]`` uint16: the i-th (x, y, radius) is i from 1 on. Later ones lie on top."""
    labels = np.zeros(shape, np.uint16)
    for label, (x, y, radius) in enumerate(circles, 1):
        top, left = max(0, int(y - radius)), max(0, int(x - radius))
        part = labels[top : int(y + radius) + 2, left : int(x + radius) + 2]
        rows, columns = np.mgrid[: part.shape[0], : part.shape[1]] + 0.5
        part[np.hypot(rows + top - y, columns + left - x) <= radius] = label
    return labels


def boxes_of(labels):
    """Float32 ``[N, 4]``, (x0, y0, x1, y1), of the labels in an image, and the labels."""
    rows, columns = np.nonzero(labels)
    found, owners = np.unique(labels[rows, columns], return_inverse=True)
    boxes = np.empty((len(found), 4), np.float32)
    for start, places in enumerate((columns, rows)):
        low, high = np.full(len(found), 1e9), np.full(len(found), -1.0)
        np.minimum.at(low, owners, places)
        np.maximum.at(high, owners, places + 1)
        boxes[:, start], boxes[:, start + 2] = low, high
    return boxes, found


def score_of(labels):
    """Scores of labels, all different and in no order."""
    return 0.3 + 0.6 * (np.int64(labels) * 7919 % 10_007) / 10_007


def finder(jitter=0.0, seed=0):
    """Finds the labels of a frame: a cut one as far as it is seen, each box a little off."""
    random = np.random.default_rng(seed)

    def find(frame):
        boxes, labels = boxes_of(frame[..., 0])
        boxes += random.uniform(-jitter, jitter, boxes.shape).astype(np.float32)
        scores = score_of(labels) + random.uniform(-jitter, jitter, len(labels)) / 100
        order = np.argsort(-scores)
        ids = (labels % 2).astype(np.int32)[order]
        return Cells(
            boxes=boxes[order],
            scores=scores.astype(np.float32)[order],
            class_ids=ids,
            class_probs=np.eye(2, dtype=np.float32)[ids],
            patches=np.full((len(labels), MASK_SIZE, MASK_SIZE), 255, np.uint8),
            frame_shape=frame.shape[:2],
            class_names=NAMES,
            found=len(labels),
        )

    return find


def server_of(find, **arguments):
    return FakeServer(find, class_names=NAMES, pipelines=("yolo",), scale=SIZES, **arguments)


def windows_sent(server):
    return [request for request in server.requests if request.model == "yolo"]


def scattered(shape, number, seed):
    """Discs of 8 to 40 px diameter that do not touch."""
    random, kept = np.random.default_rng(seed), []
    for _ in range(number):
        radius = random.uniform(4, 19.5)
        x, y = random.uniform((0, 0), shape[::-1])
        if all(np.hypot(x - a, y - b) > radius + c + 2 for a, b, c in kept):
            kept.append((x, y, radius))
    return kept


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(30, 700), st.integers(30, 700)),
    st.integers(0, 400),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, 0.4, 0.9]),
)
def test_every_cell_is_found_once(shape, number, seed, jitter):
    labels = discs(shape, scattered(shape, number, seed))
    boxes, numbers = boxes_of(labels)
    server = server_of(finder(jitter, seed))
    found = Client(transport=server).segment(labels, "yolo")
    assert len(windows_sent(server)) > 1 or labels.size <= 200 * 200
    assert len(found) == found.found == len(boxes)
    assert (np.diff(found.scores) <= 0).all()
    assert (found.frame_shape, found.class_names) == (shape, NAMES)
    remaining = dict(zip(numbers.tolist(), boxes, strict=True))
    for box, score, class_id in zip(found.boxes, found.scores, found.class_ids, strict=True):
        number = min(remaining, key=lambda each: np.abs(remaining[each] - box).max())
        np.testing.assert_allclose(box, remaining.pop(number), atol=jitter + 1e-3)
        assert score == pytest.approx(score_of(number), abs=0.01)
        assert class_id == number % 2


@pytest.mark.parametrize("diameter", [8, 40, 48, 60, 72, 96])
@pytest.mark.parametrize("jitter", [0, 0.9])
def test_a_cell_is_found_once_wherever_it_lies(diameter, jitter):
    """Around the corner of four cores. A cell beyond the overlap is found once, too, if in part."""
    server = server_of(finder(jitter))
    client = Client(transport=server)
    client.segment(np.zeros((300, 300), np.uint16), "yolo")
    starts = {request.origin for request in windows_sent(server)}
    corner = sorted({top for top, _ in starts})[1] + HALO
    for x, y in np.ndindex(9, 9):
        middle = corner + 8.3 * (np.array([x, y]) - 4)
        labels = discs((300, 300), [(*middle, diameter / 2)])
        (box,), _ = boxes_of(labels)
        found = client.segment(labels, "yolo")
        assert (len(found), found.found) == (1, 1)
        if diameter <= SIZES.largest_cell_px:
            np.testing.assert_allclose(found.boxes[0], box, atol=jitter)
        else:
            assert (found.boxes[0, :2] >= box[:2] - jitter).all()
            assert (found.boxes[0, 2:] <= box[2:] + jitter).all()


@pytest.mark.parametrize("max_cells", [1, 3, 20, 10_000])
def test_the_cap_is_that_of_the_whole_frame(max_cells):
    labels = discs((500, 600), scattered((500, 600), 300, seed=1))
    boxes, numbers = boxes_of(labels)
    server = server_of(finder())
    found = Client(transport=server).segment(labels, "yolo", max_cells=max_cells)
    best = np.argsort(-score_of(numbers))[:max_cells]
    np.testing.assert_array_equal(found.boxes, boxes[best])
    assert found.capped == (max_cells < len(boxes))
    assert found.found >= len(boxes)
    if max_cells > 1000:
        assert found.found == len(boxes)
    assert {request.inputs["max_cells"].item() for request in windows_sent(server)} == {max_cells}


def test_cells_of_one_window_are_never_taken_for_one():
    """Two that lie almost on each other are two where the server says so."""
    labels = discs((300, 300), [(x, 150, 15) for x in (40, 150, 260)])

    def doubled(frame):
        cells = finder()(frame)
        twice = cells[np.repeat(np.arange(len(cells)), 2)]
        aside = np.tile(np.float32([[0], [3]]), (len(cells), 1))
        return replace(twice, boxes=twice.boxes + aside)

    found = Client(transport=server_of(doubled)).segment(labels, "yolo")
    assert len(found) == 6


async def test_both_clients_join_alike_and_paint_the_whole_frame():
    labels = discs((400, 400), scattered((400, 400), 100, seed=2))
    server = server_of(finder())
    blocking = Client(transport=server).segment(labels, "yolo", labels=True)
    async with AsyncClient(transport=server) as client:
        awaited = await client.segment(labels, "yolo", labels=True)
    for found in (blocking, awaited):
        assert found.labels.shape == (400, 400)
        numbers = np.unique(labels)[1:]
        assert len(np.unique(found.labels)) - 1 == len(numbers) == len(found)
    np.testing.assert_array_equal(blocking.labels, awaited.labels)
    assert not any("labels" in request.outputs for request in server.requests)


def test_ready_cells_are_those_of_the_whole_frame():
    labels = discs((500, 600), scattered((500, 600), 300, seed=3))
    ready = finder()(labels[..., None])
    server = server_of(ready)
    found = Client(transport=server).segment(np.zeros((500, 600), np.uint8), "yolo")
    assert len(windows_sent(server)) > 9
    for name in ("boxes", "scores", "class_ids", "patches"):
        np.testing.assert_array_equal(getattr(found, name), getattr(ready, name))


def test_an_empty_frame_has_no_cells():
    found = Client(transport=server_of(finder())).segment(np.zeros((500, 600), np.uint8), "yolo")
    assert (len(found), found.found, found.counts()) == (0, 0, {"even": 0, "odd": 0})
    assert found.patches.shape == (0, MASK_SIZE, MASK_SIZE)


def test_a_mapped_frame_is_read_window_by_window(tmp_path):
    frame = np.memmap(tmp_path / "frame", np.uint16, "w+", shape=(500, 600))
    frame[:] = discs((500, 600), scattered((500, 600), 300, seed=4))
    server = server_of(finder())
    assert len(Client(transport=server).segment(frame, "yolo")) == len(np.unique(frame)) - 1
    sent = [request.inputs[IMAGE.name].size for request in windows_sent(server)]
    assert max(sent) <= 200 * 200


def test_a_nan_in_the_last_window_is_found_before_anything_is_sent():
    frame = np.zeros((300, 300), np.float32)
    server = server_of(finder())
    frame[-1, -1] = np.nan
    with pytest.raises(UnsupportedImage, match=r"shape \(300, 300\).* 1 values NaN"):
        Client(transport=server).segment(frame, "yolo")
    assert not server.requests


def test_the_deadline_is_that_of_the_whole_call():
    class Timed(FakeServer):
        async def infer(self, request, timeout):
            timeouts.append(timeout)
            return await super().infer(request, timeout)

    timeouts = []
    client = Client(transport=Timed(finder(), NAMES, ("yolo",), scale=SIZES))
    client.segment(np.zeros((500, 600), np.uint8), "yolo", timeout=5)
    assert len(timeouts) > 9
    assert timeouts == sorted(timeouts, reverse=True)
    assert timeouts[0] <= 5
    with pytest.raises(DeadlineExceeded, match="yolo"):
        client.segment(np.zeros((500, 600), np.uint8), "yolo", timeout=1e-4)


def test_models_that_change_in_the_middle_are_told(monkeypatch):
    versions = count()

    def exported(card):
        return encode(replace(card, models={"yolo_cells": {"version": next(versions)}}))

    encode = cards.encode_answer
    monkeypatch.setattr(cards, "encode_answer", exported)
    with pytest.raises(ServerError, match="exported anew in between"):
        Client(transport=server_of(finder())).segment(np.zeros((300, 300), np.uint8), "yolo")


def test_windows_are_asked_with_the_numbers_of_the_models_that_answer():
    """A card that was kept from before they were exported anew is not used."""
    server = server_of(finder(), threshold=0.9)
    client = Client(transport=server)
    frame = np.zeros((300, 300), np.uint8)
    client.card("yolo")
    server._threshold, server._scale = 0.1, replace(SIZES, network_scale=0.5)
    found = client.segment(frame, "yolo")
    assert found.score_threshold == 0.1
    assert {request.inputs["scale"].item() for request in windows_sent(server)} == {0.5}


@pytest.mark.parametrize(
    ("shape", "settings", "pipeline", "number"),
    [
        pytest.param((1, 1, 1), Settings(), YOLO, 1, id="a-pixel"),
        pytest.param((4224, 4224, 1), Settings(), YOLO, 1, id="64-tiles"),
        pytest.param((4225, 4224, 1), Settings(), YOLO, 4, id="one-tile-more"),
        pytest.param((2112, 2112, 3), Settings(scale=2), YOLO, 1, id="64-tiles-of-half-the-size"),
        pytest.param((8448, 8448, 1), Settings(scale=0.5), YOLO, 4, id="bytes-of-a-request"),
        pytest.param((20_000, 20_000, 3), Settings(), YOLO, 36, id="a-slide"),
        pytest.param((20_000, 20_000, 3), Settings(), MASKRCNN, 25, id="a-slide-in-large-tiles"),
        pytest.param((20_000, 300, 1), Settings(), YOLO, 2, id="long"),
        pytest.param((1, 20_000, 1), Settings(), YOLO, 2, id="a-line"),
        pytest.param((81, 409, 1), Settings(scale=80), YOLO, 39, id="tiny-cells"),
        pytest.param((9000, 9000, 1), Settings(scale="fit"), YOLO, 4, id="fit-beyond-a-request"),
    ],
)
def test_cores_tile_the_frame_and_windows_fit_a_request(shape, settings, pipeline, number):
    point = operating_point(settings, ModelCard("", ("cell",)), shape, pipeline)
    parts = cell_windows(shape, pipeline, point)
    assert len(parts) == number
    covered = np.zeros(shape[:2], np.uint8)
    for part in parts:
        covered[part.core_rows, part.core_columns] += 1
        sent = (
            part.rows.stop - part.rows.start,
            part.columns.stop - part.columns.start,
            shape[2],
        )
        assert request_limits(pipeline).allow(sent)
        assert point.tiles(sent, pipeline) <= MAX_TILES
        for span, core, length in (
            (part.rows, part.core_rows, shape[0]),
            (part.columns, part.core_columns, shape[1]),
        ):
            assert span.start == max(0, core.start - point.halo)
            assert span.stop == min(length, core.stop + point.halo)
    assert (covered == 1).all()
