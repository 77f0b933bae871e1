"""Frames in, cells out: every frame has one outcome, and the thread that submits never waits."""

from __future__ import annotations

import gc
import logging
import random
import threading
import time
import weakref

import grpc
import numpy as np
import pytest

from cytoserve import (
    Cells,
    Client,
    DeadlineExceeded,
    FakeServer,
    Foreground,
    InvalidRequest,
    InvalidSetting,
    ServerError,
    ServerUnreachable,
    UnsupportedImage,
)
from cytoserve.acquisition import FrameAnalyzer, StageTransform

BUSY = ("drop_oldest", "drop_newest", "wait")


def whole(statistics) -> bool:
    """Whether every submitted frame is counted exactly once."""
    return statistics.submitted == sum(
        getattr(statistics, name)
        for name in ("answered", "dropped", "late", "failed", "waiting", "in_flight")
    )


def test_a_frame_comes_back_as_cells_with_what_was_told_of_it(client, frame, cells):
    stage = StageTransform((60, 80), (10.0, 20.0), pixel_size_um=0.5)
    with FrameAnalyzer(client, "yolo", score_threshold=0.5) as analyzer:
        result = analyzer.submit(frame, {"t": 3}, stage=stage).result(30)
    assert result.answered
    assert (result.number, result.metadata, result.stage) == (0, {"t": 3}, stage)
    assert isinstance(result.cells, Cells)
    assert len(result.cells) == int((cells.scores >= 0.5).sum())
    assert result.foreground is result.error is None
    assert 0 <= result.waited_s <= result.total_s


def test_a_semantic_pipeline_answers_with_its_foreground(client, frame, foreground):
    with FrameAnalyzer(client, "glioma_unet") as analyzer:
        result = analyzer.submit(frame).result(30)
    assert isinstance(result.foreground, Foreground)
    assert result.foreground.confluency == foreground.confluency
    assert result.cells is None


def test_an_address_makes_a_client_that_close_closes(triton, frame):
    analyzer = FrameAnalyzer(triton.url, "yolo")
    analyzer.warm_up((60, 80))
    assert analyzer.submit(frame).result(30).answered
    analyzer.close()
    analyzer.close()
    with pytest.raises(InvalidRequest, match="closed"):
        analyzer.warm_up((60, 80))


def test_a_given_client_stays_open_for_a_second_analyzer(client, frame):
    with FrameAnalyzer(client, "yolo") as first, FrameAnalyzer(client, "glioma_unet") as second:
        tickets = [first.submit(frame), second.submit(frame)]
        first.close()
        assert [ticket.result(30).status for ticket in tickets] == ["answered"] * 2
    assert len(client.segment(frame, "yolo"))


@pytest.mark.parametrize(
    ("when_busy", "statuses"),
    [
        pytest.param("drop_oldest", ["answered", "dropped", "answered", "answered"], id="oldest"),
        pytest.param("drop_newest", ["answered", "answered", "answered", "dropped"], id="newest"),
    ],
)
def test_the_policy_decides_which_frames_are_dropped(held, held_client, frame, when_busy, statuses):
    held.go.clear()
    with FrameAnalyzer(held_client, "yolo", when_busy=when_busy, queue_size=2) as analyzer:
        tickets = [analyzer.submit(frame)]
        assert held.asked.acquire(timeout=30)  # the first is in flight
        tickets += [analyzer.submit(frame) for _ in range(3)]
        statistics = analyzer.statistics()
        assert (statistics.in_flight, statistics.waiting, statistics.dropped) == (1, 2, 1)
        held.go.set()
        assert [ticket.result(30).status for ticket in tickets] == statuses
        dropped = next(ticket for ticket in tickets if not ticket.result().answered)
    assert "server" in dropped.result().reason


@pytest.mark.parametrize("state", ["fast", "silent", "dead"])
def test_submit_returns_at_once_whatever_the_server_does(triton, held, held_client, frame, state):
    client = held_client if state == "silent" else Client(triton.url)
    if state == "dead":
        triton.stop()
    held.go.clear()
    times = []
    analyzer = FrameAnalyzer(client, "yolo", deadline=60)
    for _ in range(200):
        begun = time.perf_counter()
        analyzer.submit(frame)
        times.append(time.perf_counter() - begun)
        time.sleep(0.001)
    assert np.median(times) < 0.005  # a generous bound: it is independent of the server
    assert not held.go.is_set()
    analyzer.close(drain=False)
    client.close()


def test_wait_blocks_until_there_is_room_and_drops_nothing(held, held_client, frame):
    held.go.clear()
    analyzer = FrameAnalyzer(held_client, "yolo", when_busy="wait", queue_size=1, deadline=30)
    tickets = [analyzer.submit(frame)]
    assert held.asked.acquire(timeout=30)
    tickets.append(analyzer.submit(frame))
    third = threading.Thread(target=lambda: tickets.append(analyzer.submit(frame)))
    third.start()
    third.join(0.2)
    assert third.is_alive()
    held.go.set()
    third.join(30)
    assert [ticket.result(30).status for ticket in tickets] == ["answered"] * 3
    analyzer.close()


def test_wait_blocks_until_the_frames_deadline_at_most(held, held_client, frame):
    held.go.clear()
    analyzer = FrameAnalyzer(held_client, "yolo", when_busy="wait", queue_size=1, deadline=0.3)
    analyzer.submit(frame)
    assert held.asked.acquire(timeout=30)
    analyzer.submit(frame)
    ticket = analyzer.submit(frame)  # the server never answers, yet this returns
    assert ticket.result(30).status == "late"
    held.go.set()
    analyzer.close(drain=False)


def test_idle_threads_are_no_reason_to_drop(held, held_client, frame):
    held.go.clear()
    with FrameAnalyzer(held_client, "yolo", max_in_flight=3, queue_size=1) as analyzer:
        tickets = [analyzer.submit(frame) for _ in range(4)]
        held.go.set()
        assert [ticket.result(30).status for ticket in tickets] == ["answered"] * 4


def test_time_in_the_queue_counts_against_the_deadline(held, held_client, frame):
    with FrameAnalyzer(held_client, "yolo", deadline=0.3) as analyzer:
        analyzer.submit(frame).result(30)
        sent = len(held.requests)
        held.go.clear()
        first = analyzer.submit(frame)
        second = analyzer.submit(frame)
        time.sleep(0.4)  # the first is in flight and the second waits, both beyond their deadline
        held.go.set()
        results = [ticket.result(30) for ticket in (first, second)]
        assert [result.status for result in results] == ["late", "late"]
        assert all(isinstance(result.error, DeadlineExceeded) for result in results)
        assert analyzer.submit(frame).result(30).answered
        assert len(held.requests) == sent + 2  # the second was never sent


def test_a_late_request_is_cancelled_on_the_server(triton, frame):
    ended = threading.Event()

    def stall(context: grpc.ServicerContext) -> None:
        context.add_callback(ended.set)
        assert ended.wait(30)

    with FrameAnalyzer(triton.url, "yolo", deadline=0.5) as analyzer:
        analyzer.warm_up((60, 80))
        triton.faults.append(stall)
        result = analyzer.submit(frame).result(30)
        assert result.status == "late"
        assert isinstance(result.error, DeadlineExceeded)
        assert ended.wait(30), "the server was not told"
        assert analyzer.submit(frame).result(30).answered


def test_frames_are_late_on_time_even_if_the_transport_hangs(held, held_client, frame):
    held.go.clear()
    analyzer = FrameAnalyzer(held_client, "yolo", deadline=0.1)
    tickets = [analyzer.submit(frame), analyzer.submit(frame)]
    assert [ticket.result(30).status for ticket in tickets] == ["late", "late"]
    assert not held.go.is_set()
    held.go.set()
    analyzer.close()


def test_no_work_piles_up_on_a_server_that_goes_on_with_a_late_request(triton, frame):
    """Triton executes what is queued, cancelled or not; here the request and what comes next."""
    through = threading.Event()

    def go_on(context: grpc.ServicerContext) -> None:
        assert through.wait(30)

    with FrameAnalyzer(triton.url, "yolo", deadline=0.2) as analyzer:
        analyzer.warm_up((60, 80))
        before = triton.asked.count("yolo")
        triton.faults += [go_on, go_on]
        results = [analyzer.submit(frame).result(30) for _ in range(5)]
        assert [result.status for result in results] == ["late"] * 5
        assert triton.asked.count("yolo") - before <= 2  # one frame, one look for the server
        through.set()
        while not analyzer.submit(frame).result(30).answered:
            pass


def test_closing_without_draining_cancels_what_is_in_flight(triton, frame):
    ended, begun = threading.Event(), threading.Event()

    def stall(context: grpc.ServicerContext) -> None:
        context.add_callback(ended.set)
        begun.set()
        assert ended.wait(30)

    analyzer = FrameAnalyzer(triton.url, "yolo", deadline=60)
    analyzer.warm_up((60, 80))
    triton.faults.append(stall)
    tickets = [analyzer.submit(frame)]
    assert begun.wait(30)
    tickets.append(analyzer.submit(frame))
    analyzer.close(drain=False)
    assert [ticket.result(0).status for ticket in tickets] == ["dropped"] * 2
    assert ended.wait(30), "the server was not told"


def test_draining_waits_for_all_frames_and_calls(held, held_client, frame):
    held.delay = 0.05
    seen = []
    with FrameAnalyzer(
        held_client, "yolo", when_busy="wait", queue_size=5, callback=seen.append
    ) as analyzer:
        for _ in range(5):
            analyzer.submit(frame)
    assert [result.status for result in seen] == ["answered"] * 5
    assert analyzer.statistics().waiting == 0


def test_after_close_a_frame_fails(client, frame):
    analyzer = FrameAnalyzer(client, "yolo")
    analyzer.close()
    result = analyzer.submit(frame, "meta").result(0)
    assert (result.status, result.metadata) == ("failed", "meta")
    assert "close()" in result.reason
    assert list(analyzer.results()) == []


def test_a_server_that_starts_late_or_again_is_found(triton, frame, until):
    triton.stop()
    with FrameAnalyzer(triton.url, "yolo") as analyzer:
        result = analyzer.submit(frame).result(30)
        assert result.status == "failed"
        assert isinstance(result.error, ServerUnreachable)
        for _ in range(2):
            triton.start()
            until(lambda: analyzer.submit(frame).result(30).answered)
            triton.stop()
            assert analyzer.submit(frame).result(30).status == "failed"
    assert whole(analyzer.statistics())


def test_errors_of_the_server_are_told_with_the_frame(triton, frame, abort):
    with FrameAnalyzer(triton.url, "yolo") as analyzer:
        analyzer.warm_up((60, 80))
        triton.faults.append(abort(grpc.StatusCode.INTERNAL, "upside down"))
        result = analyzer.submit(frame, 7).result(30)
        assert (result.status, result.metadata) == ("failed", 7)
        assert isinstance(result.error, ServerError)
        assert "upside down" in result.reason


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        pytest.param(np.zeros((60, 80, 4), np.uint8), "alpha", id="RGB32"),
        pytest.param(np.zeros((60, 80), np.int16), "int16", id="int16"),
        pytest.param(np.full((60, 80), 900.0, np.float32), "0..1", id="float of counts"),
        pytest.param(np.full((60, 80), np.nan, np.float32), "isfinite", id="NaN"),
        pytest.param(np.zeros((0, 80), np.uint16), "pixel", id="empty"),
        pytest.param([[1, 2]], "numpy", id="a list"),
        pytest.param(None, "numpy", id="None"),
        pytest.param(OSError("camera"), "numpy", id="an error in place of a frame"),
    ],
)
def test_bad_frames_fail_and_say_why(client, frame, bad, told):
    with FrameAnalyzer(client, "yolo") as analyzer:
        result = analyzer.submit(bad, "meta").result(30)
        assert (result.status, result.metadata) == ("failed", "meta")
        assert isinstance(result.error, UnsupportedImage)
        assert told in result.reason
        assert analyzer.submit(frame).result(30).answered


@pytest.mark.parametrize(
    "good",
    [
        pytest.param(np.zeros((60, 80), np.uint8), id="8 bit"),
        pytest.param(np.zeros((33, 47), np.uint16), id="another size"),
        pytest.param(np.zeros((60, 80, 3), np.uint8), id="RGB"),
        pytest.param(np.zeros((60, 80), np.float32), id="float within 0 to 1"),
        pytest.param(np.zeros((60, 80), np.uint16)[::-1, ::2], id="a view"),
        pytest.param(np.zeros((60, 80), ">u2"), id="big-endian"),
    ],
)
def test_frames_may_differ_from_one_to_the_next(client, frame, good):
    with FrameAnalyzer(client, "yolo", when_busy="wait") as analyzer:
        tickets = [analyzer.submit(image) for image in (frame, good, frame)]
        assert [ticket.result(30).status for ticket in tickets] == ["answered"] * 3


@pytest.mark.parametrize("copy", [True, False])
def test_a_camera_may_reuse_its_memory_only_if_frames_are_copied(held, held_client, frame, copy):
    held.go.clear()
    with FrameAnalyzer(held_client, "yolo", copy=copy) as analyzer:
        analyzer.submit(frame)
        assert held.asked.acquire(timeout=30)
        buffer = frame.copy()
        ticket = analyzer.submit(buffer)
        buffer[:] = 0
        held.go.set()
        assert ticket.result(30).answered
    assert held.requests[-1].inputs["image"].any() == copy


def test_select_leaves_frames_out_before_anything_is_counted(client, frame):
    def blue(metadata) -> bool:
        return metadata["channel"] == "DAPI"

    with FrameAnalyzer(client, "yolo", select=blue) as analyzer:
        reader = analyzer.results()
        assert analyzer.submit(frame, {"channel": "DAPI"}).result(30).answered
        assert analyzer.submit(frame, {"channel": "FITC"}).result(0).status == "skipped"
        broken = analyzer.submit(frame, {}).result(0)
    assert (broken.status, type(broken.error)) == ("failed", KeyError)
    assert [result.status for result in reader] == ["answered", "failed"]
    statistics = analyzer.statistics()
    assert (statistics.submitted, statistics.skipped) == (2, 1)


def test_a_callback_that_raises_is_logged_and_counted(client, frame, caplog):
    def fail(result):
        raise RuntimeError("my plot")

    with FrameAnalyzer(client, "yolo", callback=fail, when_busy="wait") as analyzer:
        for _ in range(3):
            assert analyzer.submit(frame).result(30).answered
    assert analyzer.statistics().callback_errors == 3
    assert "my plot" in caplog.text


def test_a_callback_that_blocks_holds_nothing_up(client, frame, caplog):
    free = threading.Event()
    with FrameAnalyzer(
        client, "yolo", callback=lambda result: free.wait(30), when_busy="wait", deadline=2
    ) as analyzer:
        for _ in range(5):
            assert analyzer.submit(frame).result(30).answered
        with caplog.at_level(logging.WARNING):
            analyzer.close()
        assert "still runs" in caplog.text
        free.set()


def test_a_callback_may_close_its_analyzer(client, frame):
    closed = threading.Event()

    def close(result):
        analyzer.close()
        closed.set()

    analyzer = FrameAnalyzer(client, "yolo", callback=close)
    analyzer.submit(frame)
    assert closed.wait(30)


def test_a_clock_that_jumps_changes_nothing(held, held_client, frame, monkeypatch):
    with FrameAnalyzer(held_client, "yolo", deadline=30) as analyzer:
        held.go.clear()
        ticket = analyzer.submit(frame)
        monkeypatch.setattr(time, "time", lambda: -1e9)
        held.go.set()
        assert ticket.result(30).answered
        monkeypatch.setattr(time, "time", lambda: 1e12)
        result = analyzer.submit(frame).result(30)
    assert result.answered
    assert result.total_s < 30


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param({"client": "no address"}, "address", id="an address that is none"),
        pytest.param({"pipeline": "cellpose"}, "pipeline", id="unknown pipeline"),
        pytest.param({"pipeline": "sam_prompt"}, "prompt", id="a pipeline that needs prompts"),
        pytest.param({"max_in_flight": 0}, "max_in_flight", id="nothing in flight"),
        pytest.param({"queue_size": 0}, "queue_size", id="no queue"),
        pytest.param({"when_busy": "explode"}, "when_busy", id="unknown policy"),
        pytest.param({"deadline": 0}, "deadline", id="no time"),
        pytest.param({"score_threshold": 2}, "score_threshold", id="threshold out of range"),
        pytest.param({"threshold": 0.5}, "score_threshold", id="unknown setting"),
        pytest.param({"white_level": 4095}, "labels", id="setting of semantic pipelines"),
        pytest.param({"version": 0}, "version", id="no version"),
    ],
)
def test_wrong_settings_are_told_before_the_first_frame(arguments, told):
    with pytest.raises(InvalidSetting, match=told):
        FrameAnalyzer(**{"client": "localhost:1", "pipeline": "yolo", **arguments})


def test_nobody_at_the_address_is_told_by_warm_up_and_by_every_frame(triton, frame):
    triton.stop()
    with FrameAnalyzer(triton.url, "yolo") as analyzer:
        with pytest.raises(ServerUnreachable, match="python -m server"):
            analyzer.warm_up((60, 80))
        assert analyzer.submit(frame).result(30).status == "failed"


def test_ticket_result_waits_no_longer_than_told(held, held_client, frame):
    held.go.clear()
    with FrameAnalyzer(held_client, "yolo") as analyzer:
        ticket = analyzer.submit(frame)
        assert not ticket.done()
        with pytest.raises(TimeoutError, match="frame 0"):
            ticket.result(0.01)
        held.go.set()
        assert ticket.result(30).answered


@pytest.mark.parametrize("when_busy", BUSY)
def test_every_frame_has_one_outcome_whatever_fails(cells, frame, when_busy):
    """Random faults, stalls, bad frames and threads; the counts hold at every moment."""
    chance = random.Random(1)

    def find(pixels) -> Cells:
        time.sleep(chance.choice([0, 0, 0.001, 0.02]))
        if chance.random() < 0.2:
            raise ServerError("by chance")
        return cells

    client = Client(transport=FakeServer(find, cells.class_names))
    analyzer = FrameAnalyzer(
        client, "yolo", max_in_flight=3, queue_size=2, when_busy=when_busy, deadline=0.03
    )
    reader = analyzer.results(max_unread=10_000)
    tickets, moments = [], []

    def host(seed: int) -> None:
        own = random.Random(seed)
        for _ in range(100):
            bad = own.random() < 0.1
            tickets.append(analyzer.submit(None if bad else frame))
            moments.append(analyzer.statistics())
            time.sleep(own.choice([0, 0.001]))

    threads = [threading.Thread(target=host, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    analyzer.close()
    assert all(whole(statistics) for statistics in moments)
    final = analyzer.statistics()
    assert whole(final)
    assert (final.submitted, final.waiting, final.in_flight) == (300, 0, 0)
    results = [ticket.result(0) for ticket in tickets]
    for status in ("answered", "dropped", "late", "failed"):
        assert getattr(final, status) == sum(result.status == status for result in results)
    assert sorted(result.number for result in results) == list(range(300))
    assert sorted(result.number for result in reader) == list(range(300))
    assert final.answered
    assert final.failed
    assert (final.dropped == 0) == (when_busy == "wait")


def test_the_percentiles_are_those_of_the_answered_frames(held, held_client, frame):
    held.delay = 0.02
    with FrameAnalyzer(held_client, "yolo") as analyzer:
        assert analyzer.statistics().p50_s is None
        times = [analyzer.submit(frame).result(30).total_s for _ in range(20)]
    statistics = analyzer.statistics()
    assert statistics.p50_s == pytest.approx(np.percentile(times, 50))
    assert statistics.p50_s <= statistics.p95_s <= statistics.p99_s


def test_a_dead_server_leaves_no_frames_in_memory(triton, until):
    """Nobody reads these results, and a host may keep all tickets."""
    triton.stop()

    class Frame(np.ndarray):
        pass

    frames: list[weakref.ref[Frame]] = []

    def alive() -> int:
        gc.collect()  # of errors that refer to each other
        return sum(frame() is not None for frame in frames)

    with FrameAnalyzer(triton.url, "yolo", copy=False) as analyzer:
        tickets = []
        for number in range(10_000):
            frame = np.zeros((60, 80), np.uint16).view(Frame)
            frames.append(weakref.ref(frame))
            tickets.append(analyzer.submit(frame, number))
        del frame
        assert alive() <= 2  # one waits, one is in flight
        assert tickets[-1].result(30).status == "failed"
        until(lambda: alive() == 0)
    statistics = analyzer.statistics()
    assert statistics.submitted == 10_000 == statistics.dropped + statistics.failed
