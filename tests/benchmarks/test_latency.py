"""Latency and its parts: of made-up calls, and of requests to the real server."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.harness.load import Case, asked, cross, product
from benchmarks.harness.serving import DEFAULT, paused_supervisor
from benchmarks.harness.step_statistics import ModelCount, counted
from benchmarks.latency.__main__ import main
from benchmarks.latency.overhead import OUTSIDE, ROUNDS, SplitClock, ratios, step_rows
from benchmarks.latency.tables import latency_table
from cytoserve import Client, FakeServer, Foreground
from cytoserve.contract import SINGLE_GRAPH

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
    result = json.loads(file.read_text())
    ways = [(row["width"], row["way"]) for row in result["cases"]]
    assert ways == [(w, way) for w in (96, 128) for way in ("gRPC", "shared memory")]
    for row in result["cases"]:
        parts = [row[f"{part}_ms"] for part in ("encode", "wire", "server", "decode")]
        assert sum(parts) == pytest.approx(row["mean_ms"])
        assert min(row["encode_ms"], row["server_ms"], row["decode_ms"]) > 0
        assert row["requests"] == 3
        own = [
            step
            for step in result["steps"]
            if (step["width"], step["way"]) == (row["width"], row["way"])
        ]
        assert [step["step"] for step in own] == ["yolo_prepare", "yolo_targets", "yolo_decode"]
        taken = sum(step[f"{part}_ms"] for step in own for part in ("queue", "input", "compute"))
        assert taken < row["server_ms"]
    assert [row["variant"] for row in result["overhead"]] == [DEFAULT, SINGLE_GRAPH]
    steps = ["yolo_prepare", "yolo_targets", "yolo_decode"]
    for overhead, compared in zip(result["overhead"], (steps, ["yolo_merged"]), strict=True):
        assert overhead["requests"] == ROUNDS
        for way in ("overhead", "overhead_shared_memory"):
            low, high = overhead[f"{way}_interval"]
            assert 0 < low <= overhead[way] <= high
        variant = overhead["variant"]
        *inside, outside = [r for r in result["overhead_steps"] if r["variant"] == variant]
        assert [row["step"] for row in inside] == compared
        assert all(row["compute_ms"] > 0 and row["in_process_ms"] > 0 for row in inside)
        assert outside["step"] == OUTSIDE
        assert outside["in_process_ms"] > 0
    assert page.read_text() == latency_table(result)
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
    assert row["overhead_shared_memory_interval"] == [1, 1]


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


def test_what_a_server_adds_is_told_by_step():
    times = {"gRPC": [0.011, 0.013], "shared memory": [0.010, 0.010], "in process": [0.007, 0.009]}
    counts = {
        "yolo": ModelCount(4, 4, 0.036, 0, 0, 0, 0),
        "yolo_prepare": ModelCount(4, 4, 0.008, 0.0004, 0.0008, 0.0048, 0.002),
        "yolo_targets": ModelCount(4, 2, 0.02, 0.004, 0.0, 0.016, 0.0),
        "cell_labels": ModelCount(0, 0, 0, 0, 0, 0, 0),
    }
    seconds = {"yolo_prepare": [0.001, 0.001], "yolo_targets": [0.005, 0.006], "cell_labels": []}
    rows = step_rows("yolo", times, seconds, counts)
    assert [row.pop("step") for row in rows] == ["yolo_prepare", "yolo_targets", OUTSIDE]
    parts = ("in_process_ms", "queue_ms", "input_ms", "compute_ms", "output_ms")
    prepare = dict(zip(parts, (1.0, 0.1, 0.2, 1.2, 0.5), strict=True))
    targets = dict(zip(parts, (5.5, 1.0, 0.0, 4.0, 0.0), strict=True))
    # 8 ms in this process, of which steps take 6.5; 11 ms through the server, of which it has 9.
    outside = {"in_process_ms": 1.5, "outside_ms": 2.0}
    assert rows == [pytest.approx(row) for row in (prepare, targets, outside)]


def test_a_merged_step_is_compared_with_all_that_it_joins():
    times = {"gRPC": [0.01, 0.01], "shared memory": [0.01, 0.01], "in process": [0.008, 0.008]}
    counts = {
        "yolo": ModelCount(4, 4, 0.036, 0, 0, 0, 0),
        "yolo_merged": ModelCount(4, 4, 0.034, 0.0, 0.0, 0.032, 0.0),
    }
    seconds = {"yolo_prepare": [0.001, 0.001], "yolo_targets": [0.005, 0.006]}
    inside, outside = step_rows("yolo", times, seconds, counts)
    assert (inside["step"], outside["step"]) == ("yolo_merged", OUTSIDE)
    assert inside["in_process_ms"] == pytest.approx(6.5)
    assert inside["compute_ms"] == pytest.approx(8.0)
    assert outside["in_process_ms"] == pytest.approx(1.5)


def test_the_slowest_of_few_is_said_to_be(tmp_path):
    about = {"pipeline": "yolo", "width": 64, "height": 48, "cells": 0, "found": 0, "way": "gRPC"}
    figures = dict.fromkeys(("p50_ms", "p95_ms", "p99_ms", "to_grpc", "encode_ms"), 7.0)
    rest = dict.fromkeys(("wire_ms", "server_ms", "decode_ms"), 1.0)
    rows = [{**about, **figures, **rest, "requests": count} for count in (19, 20, 100)]
    step = {**about, "step": "yolo_prepare"}
    step |= dict.fromkeys(("queue_ms", "input_ms", "compute_ms", "output_ms"), 1.0)
    others = {"overhead": [], "overhead_steps": [], "machine": {}}
    page = latency_table({"cases": rows, "steps": [step], **others})
    assert [line.count("7.0 max") for line in page.splitlines() if "| 7.0" in line] == [2, 1, 0]


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
