"""Iterators over results: their order, their end, and their bound."""

from __future__ import annotations

import gc
import threading

import pytest

from cytoserve import Client, FakeServer, InvalidSetting
from cytoserve.acquisition import FrameAnalyzer, Results


@pytest.mark.parametrize(
    ("order", "numbers"),
    [
        pytest.param("arrival", [0, 1, 2, 3], id="arrival"),
        pytest.param("completion", [1, 3, 0, 2], id="completion"),
    ],
)
def test_results_come_in_the_order_of_arrival_or_completion(
    held, held_client, frame, order, numbers
):
    held.go.clear()
    with FrameAnalyzer(held_client, "yolo") as analyzer:
        reader = analyzer.results(order)
        analyzer.submit(frame)
        assert held.asked.acquire(timeout=30)
        analyzer.submit(frame)
        analyzer.submit(frame)  # 1 is dropped for it
        analyzer.submit(None)  # it fails at once
        held.go.set()
    assert [result.number for result in reader] == numbers


def test_results_can_be_read_while_frames_come(client, frame):
    analyzer = FrameAnalyzer(client, "yolo")
    reader = analyzer.results()
    for number in range(3):
        analyzer.submit(frame, number)
        assert next(reader).metadata == number
    analyzer.close()
    with pytest.raises(StopIteration):
        next(reader)


def test_a_slow_reader_misses_the_oldest_and_is_told(client, frame):
    with FrameAnalyzer(client, "yolo", when_busy="wait") as analyzer:
        readers = [analyzer.results(order, max_unread=2) for order in ("arrival", "completion")]
        tickets = [analyzer.submit(frame) for _ in range(5)]
    for reader in readers:
        assert [result.number for result in reader] == [3, 4]
        assert reader.missed == 3
    assert all(ticket.result(0).answered for ticket in tickets)


def test_a_reader_that_is_thrown_away_costs_nothing(client, frame):
    with FrameAnalyzer(client, "yolo") as analyzer:
        reader = analyzer.results()
        del reader
        gc.collect()
        assert not analyzer._queue._readers
        assert analyzer.submit(frame).result(30).answered


def test_a_blocked_callback_misses_results_that_are_counted(cells, frame, monkeypatch, until):
    monkeypatch.setattr(Results.__init__, "__defaults__", ("completion", 3))
    seen, free = [], threading.Event()
    analyzer = FrameAnalyzer(
        Client(transport=FakeServer(cells)),
        "yolo",
        when_busy="wait",
        callback=lambda result: (seen.append(result), free.wait(30)),
    )
    analyzer.submit(frame)
    until(lambda: len(seen) == 1)
    for _ in range(10):
        analyzer.submit(frame).result(30)
    assert analyzer.statistics().unread == 7
    free.set()
    analyzer.close()
    assert [result.number for result in seen] == [0, 8, 9, 10]


@pytest.mark.parametrize("wrong", [{"order": "size"}, {"max_unread": 0}])
def test_wrong_orders_are_refused(client, wrong):
    with FrameAnalyzer(client, "yolo") as analyzer, pytest.raises(InvalidSetting, match="order"):
        analyzer.results(**wrong)
