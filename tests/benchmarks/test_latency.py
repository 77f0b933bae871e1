"""Latency and its parts: of made-up calls, and of requests to the real server."""

from __future__ import annotations

import time

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.harness.load import Case, asked, cross, product
from benchmarks.harness.results import read_result
from benchmarks.harness.serving import paused_supervisor
from benchmarks.harness.step_statistics import counted
from benchmarks.latency.__main__ import main
from benchmarks.latency.overhead import ROUNDS, SplitClock, ratios
from benchmarks.latency.result import CaseRow, LatencyResult, StepRow, latency_page
from cytoserve import Client, FakeServer, Foreground
from cytoserve.contract import SINGLE_GRAPH
from server.variants import DEFAULT

SMALL, USUAL, LARGE = (640, 480), (2048, 2048), (2592, 1952)


@pytest.mark.parametrize(
    ("sizes", "counts", "cases"),
    [
        pytest.param(
            [SMALL, USUAL, LARGE],
            [0, 15, 500],
            [(*SMALL, 15), (*USUAL, 15), (*LARGE, 15), (*USUAL, 0), (*USUAL, 500)],
            id="a cross at the usual ones",
        ),
        pytest.param(
            [SMALL, LARGE], [3, 4], [(*SMALL, 3), (*LARGE, 3), (*LARGE, 4)], id="without them"
        ),
        pytest.param([SMALL], [0], [(*SMALL, 0)], id="one"),
    ],
)
def test_cross(sizes, counts, cases):
    assert cross(sizes, counts) == [Case(*case) for case in cases]
    assert set(cross(sizes, counts)) <= set(product(sizes, counts))


@pytest.mark.parametrize(
    ("pipeline", "left"),
    [
        pytest.param("yolo", [0, 1, 2, 3], id="all"),
        pytest.param("sam_prompt", [0, 2, 3], id="prompted: not without a cell"),
        pytest.param("nuclei_unet", [0, 3], id="semantic: each size once"),
        pytest.param("glioma_unet", [0], id="semantic: no frame beyond its limit"),
    ],
)
def test_a_pipeline_is_asked_what_it_answers(pipeline, left):
    cases = [Case(*USUAL, 15), Case(*USUAL, 0), Case(*USUAL, 500), Case(4000, 4000, 15)]
    assert asked(pipeline, cases) == [cases[index] for index in left]


class SlowServer(FakeServer):
    """Takes 50 ms for a frame, and 500 ms for a card."""

    async def infer(self, request, timeout):
        time.sleep(0.5 if request.model.endswith("card") else 0.05)
        return await super().infer(request, timeout)


def test_a_call_is_split():
    clock = SplitClock(
        SlowServer(foreground=Foreground.from_probability(np.zeros((60, 80), np.uint8)))
    )
    frame = np.zeros((60, 80), np.uint16)
    with Client(transport=clock) as client:
        seconds = clock.time("nuclei_unet", lambda: client.foreground(frame, "nuclei_unet"))
        assert 0.05 <= seconds.transport < 0.5  # without the card
        assert 0 < seconds.encode < 0.5
        assert 0 < seconds.decode < 0.5
        assert seconds.total == seconds.encode + seconds.transport + seconds.decode
        assert seconds.request_bytes == frame.nbytes + 2 * 4  # and two thresholds
        assert seconds.answer_bytes == 2 * frame.size  # probability and mask, no centre
        for calls in (0, 2):
            with pytest.raises(RuntimeError, match=f"the call sent {calls}"):
                clock.time(
                    "nuclei_unet",
                    lambda calls=calls: [
                        client.foreground(frame, "nuclei_unet") for _ in range(calls)
                    ],
                )


def test_the_servers_statistics_of_several_requests(server):
    frame = np.zeros((64, 96), np.uint16)
    with Client(server.url) as client, paused_supervisor(server):
        client.foreground(frame, "nuclei_unet")  # the card is known from here on

        def ask():
            return [client.foreground(frame, "nuclei_unet") for _ in range(3)]

        counts = counted(server.url, "nuclei_unet", ask, requests=3)
        with pytest.raises(RuntimeError, match=r"2 request.* counts 3"):
            counted(server.url, "nuclei_unet", ask, requests=2)
    whole = counts.pop("nuclei_unet")
    assert {count.answers for count in (whole, *counts.values())} == {3}
    assert all(count.compute > 0 and count.queue > 0 for count in counts.values())
    time_interleaved = [
        count for name, count in counts.items() if name != "foreground"
    ]  # beside another
    # Without outputs: a step still counts them when the next has begun.
    assert (
        sum(count.queue + count.input + count.compute for count in time_interleaved) < whole.total
    )


@pytest.mark.slow
def test_the_command(exported_repository, tmp_path):
    file, page = tmp_path / "latency.json", tmp_path / "latency.md"
    options = ["--size", "96x64", "--size", "128x96", "--cells", "2"]
    options += ["--seconds", "0", "--overhead-seconds", "0"]
    paths = ["--model-repository", exported_repository, "--json", file, "--markdown", page]
    done = CliRunner().invoke(main, [*options, "--pipeline", "yolo", *map(str, paths)])
    assert done.exit_code == 0, done.output
    result = read_result(file, LatencyResult)
    ways = [(row.width, row.way) for row in result.cases]
    assert ways == [(w, way) for w in (96, 128) for way in ("gRPC", "shared memory")]
    for row in result.cases:
        parts = (row.encode_ms, row.wire_ms, row.server_ms, row.decode_ms)
        assert sum(parts) == pytest.approx(row.mean_ms)
        assert min(row.encode_ms, row.server_ms, row.decode_ms) > 0
        assert row.requests == 3
        own = [step for step in result.steps if (step.width, step.way) == (row.width, row.way)]
        assert [step.step for step in own] == ["yolo_prepare", "yolo_targets", "yolo_decode"]
        taken = sum(step.queue_ms + step.input_ms + step.compute_ms for step in own)
        assert taken < row.server_ms
    assert [row.variant for row in result.overhead] == [DEFAULT, SINGLE_GRAPH]
    for row in result.overhead:
        assert row.requests == ROUNDS
        low, high = row.overhead_interval
        assert 0 < low <= row.overhead <= high
        low, high = row.overhead_shared_memory_interval
        assert 0 < low <= row.overhead_shared_memory <= high
    assert page.read_text() == latency_page(result)
    assert page.read_text().count("| 2 |") >= len(ways)


@pytest.mark.parametrize(
    ("served", "alone", "expected"),
    [
        pytest.param([0.11, 0.11, 0.11], [0.1, 0.1, 0.1], (1.1, 1.1), id="steady"),
        pytest.param(
            [0.11, 0.33, 0.55, 0.22], [0.1, 0.3, 0.5, 0.2], (1.1, 1.1), id="slow rounds of both"
        ),
        pytest.param([0.1, 0.1, 0.4], [0.1, 0.1, 0.1], (1, 4), id="a slow answer"),
    ],
)
def test_how_sure_a_ratio_is(served, alone, expected):
    row = ratios({"gRPC": served, "shared memory": alone, "in process": alone})
    assert row["overhead_interval"] == pytest.approx(expected)
    assert row["overhead_shared_memory_interval"] == (1, 1)


def test_what_a_server_adds_is_the_median_of_the_rounds_own():
    """A machine that becomes slower and slower: the ratio of medians would say 1 and 1.5."""
    times = {
        "gRPC": [0.2, 0.2, 0.6],
        "shared memory": [0.1, 0.3, 0.6],
        "in process": [0.1, 0.2, 0.4],
    }
    row = ratios(times)
    assert (row["overhead"], row["overhead_shared_memory"]) == pytest.approx((1.5, 1.5))
    assert row["grpc_ms"] == pytest.approx(200)
    assert row["requests"] == 3


def test_the_slowest_of_few_is_said_to_be():
    about = {"pipeline": "yolo", "width": 64, "height": 48, "cells": 0, "way": "gRPC"}
    figures = dict.fromkeys(("p50_ms", "p95_ms", "p99_ms", "to_grpc", "mean_ms", "encode_ms"), 7.0)
    figures |= dict.fromkeys(("wire_ms", "server_ms", "decode_ms"), 1.0)
    figures |= dict.fromkeys(("found", "request_bytes", "answer_bytes"), 0)
    parts = dict.fromkeys(("queue_ms", "input_ms", "compute_ms", "output_ms"), 1.0)
    result = LatencyResult(
        benchmark="latency",
        command="",
        machine={},
        seconds=1,
        fewest=3,
        overhead_seconds=1,
        cases=tuple(CaseRow(**about, **figures, requests=count) for count in (19, 20, 100)),
        steps=(StepRow(**about, step="yolo_prepare", **parts, executions=1),),
        overhead=(),
    )
    lines = latency_page(result).splitlines()
    assert [line.count("7.0 max") for line in lines if "| 7.0" in line] == [2, 1, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(["--size", "640"], "reads 1024x1024; given: 640", id="a size that is none"),
        pytest.param(["--pipeline", "yolo"], "python -m export yolo", id="not exported"),
        pytest.param([], "must be exported", id="nothing exported"),
        pytest.param(["--fewest", "0"], "0 is not in the range", id="no request"),
    ],
)
def test_bad_input_is_told(options, message, source_repository, tmp_path):
    paths = ["--model-repository", source_repository, "--json", tmp_path / "latency.json"]
    done = CliRunner().invoke(main, [*options, *map(str, paths)])
    assert done.exit_code in (1, 2)
    assert message in done.output
    assert not (tmp_path / "latency.json").exists()
