"""Throughput: rates of many callers, layouts in process, and the command on the real server."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.harness.load import load_frame
from benchmarks.harness.results import made_by, read_result
from benchmarks.harness.serving import (
    DEFAULT,
    GRPC,
    TRANSPORTS,
    paused_supervisor,
)
from benchmarks.throughput.__main__ import (
    batch_rows,
    bound_among,
    layout_rows,
    main,
    served_rows,
    variants_of,
)
from benchmarks.throughput.clients import (
    Callers,
    Exchange,
    Layout,
    Opened,
    answered_per_second,
    layouts,
)
from benchmarks.throughput.result import (
    FramesSent,
    ThroughputResult,
    throughput_page,
)
from benchmarks.throughput.windows import Meters, Sample, Served, StepCount
from cytoserve import Client

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("exchanges", "rate"),
    [
        pytest.param([], 0, id="none"),
        pytest.param([(10, 11), (11, 12)], 1, id="one after the other"),
        pytest.param([(10, 12)] * 4, 2, id="a batch of four"),
        pytest.param([(9, 11), (11, 13)], 0.5, id="halves, before and after"),
        pytest.param([(0, 100)], 0.01, id="a slow one, its part"),
        pytest.param([(5, 6), (13, 14)], 0, id="beside the window"),
    ],
)
def test_answers_a_second(exchanges, rate):
    found = [Exchange(*times) for times in exchanges]
    assert answered_per_second(found, start=10, end=12) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("cores", "expected"),
    [
        pytest.param(1, [(1, 1, 1)], id="one core"),
        pytest.param(2, [(1, 2, 1), (2, 1, 2), (1, 2, 2)], id="two"),
        pytest.param(6, [(1, 6, 1), (2, 3, 2), (4, 1, 4), (1, 6, 6)], id="six"),
    ],
)
def test_layouts(cores, expected):
    assert layouts(cores) == [Layout(*layout) for layout in expected]


def test_the_error_of_a_caller_is_raised():
    def refuse(frame):
        raise ValueError("no frame today")

    callers = Callers([lambda n: time.sleep(0.01), refuse])
    callers.start()
    callers.wait_until_warm()
    with pytest.raises(ValueError, match="no frame today"):
        callers.stop()


def test_callers_of_a_layout(exported_repository):
    frames = [load_frame(160, 128, 3)]
    layout = Layout(chains=1, threads=1, callers=2)
    opened = Opened(exported_repository, "yolo", layout, frames)
    for _ in range(2):  # a layout is used round by round
        callers = opened.callers()
        callers.start()
        callers.wait_until_warm()
        assert len(callers.stop()) >= 2


def test_meters_read_the_servers_processes_and_steps(server):
    frame = load_frame(160, 128, 3).image
    with (
        paused_supervisor(server),
        Meters(server.url, "yolo", server.pid) as meters,
        Client(server.url) as client,
    ):
        before = meters.read()
        for _ in range(20):
            client.segment(frame, "yolo")
        used = meters.read().since(before)
    assert 0 < used.server_cpu < used.machine_cpu
    assert used.steps["yolo_targets"].requests == 20


def sample(rate, executions=1):
    steps = {"resnet50_cells": StepCount(requests=8, rows=80, executions=executions)}
    return Sample(rate, 0.1, 0.2, 8, 1.5, 0.25, 0.0, steps)


SAMPLES = {
    Layout(1, 2, 1): [sample(10.0), sample(20.0), sample(20.0)],
    Layout(2, 1, 2): [sample(30.0), sample(10.0), sample(10.0)],
    Served(GRPC, 1): [sample(5.0)] * 3,
    Served(GRPC, 8): [sample(9.0, 2), sample(16.0, 2), sample(20.0, 4)],
}


def test_rows():
    inside = list(layout_rows("yolo_resnet", SAMPLES))
    alone, eight = served_rows("yolo_resnet", SAMPLES)
    *_, batch = batch_rows("yolo_resnet", SAMPLES)
    assert [row.best for row in inside] == [True, False]
    assert eight.frames_per_second == 16
    assert eight.share == 0.9  # of the shares of each round: 0.9, 0.8 and 1
    assert alone.cpu_seconds_per_frame == pytest.approx(1.75 / 5)
    assert (batch.requests_per_execution, batch.rows_per_execution) == (3, 30)


@pytest.mark.parametrize(
    ("concurrency", "expected"), [([1, 2, 4, 8, 16], 8), ([1, 6, 32], 6), ([3], 3)]
)
def test_requests_at_a_time_that_are_compared_with_the_limit(concurrency, expected):
    assert bound_among(concurrency) == expected


def test_the_page_marks_the_limit():
    result = ThroughputResult(
        **made_by("throughput"),
        frames=FramesSent(rendered=False, count=4, width=64, height=64, cells=None),
        rounds=3,
        window_seconds=3.0,
        in_process=tuple(layout_rows("yolo_resnet", SAMPLES)),
        served=tuple(served_rows("yolo_resnet", SAMPLES)),
        batches=tuple(batch_rows("yolo_resnet", SAMPLES)),
    )
    page = throughput_page(result)
    assert "| **1 set of sessions of 2 threads, 1 frame at a time** |" in page
    assert "| default | 8 | gRPC | 16.0 | 0.90 |" in page


@pytest.mark.parametrize(
    ("pipeline", "variants"), [("yolo_resnet", ["throughput"]), ("glioma_unet", [])]
)
def test_variants_for_many_clients(pipeline, variants):
    assert variants_of(ROOT / "model_repository", pipeline) == variants


@pytest.mark.slow
def test_the_command(exported_repository, tmp_path):
    small = ["--size", "160x128", "--cells", "3", "--concurrency", "3"]
    small += ["--rounds", "1", "--window", "0.3"]
    file = tmp_path / "throughput.json"
    paths = ["--model-repository", str(exported_repository), "--json", str(file)]
    done = CliRunner().invoke(main, [*paths, "--pipeline", "yolo", *small], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    result = read_result(file, ThroughputResult)
    assert throughput_page(result).strip() in done.output
    ways = {(variant, client) for variant in (DEFAULT, "throughput") for client in TRANSPORTS}
    assert {(row.variant, row.client) for row in result.served} == ways
    for row in result.served:
        assert row.concurrency == 3
        assert row.frames_per_second > 0
        assert 0 < row.p50_seconds <= row.p99_seconds
    assert sum(row.server_cores for row in result.served) > 0
    assert sum(row.client_cores for row in result.in_process) > 0
    assert sum(row.best for row in result.in_process) == 1
    assert {row.step for row in result.batches} == {"yolo_targets"}
    assert min(row.requests_per_execution for row in result.batches) >= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--concurrency", "1,none"], "read 1,2,4,8; given: 1,none", id="concurrency"),
        pytest.param(["--size", "1024"], "reads 1024x1024; given: 1024", id="size"),
        pytest.param(["--frames", "."], "must hold PNG, JPEG, BMP or TIFF files", id="no frame"),
        pytest.param(
            ["--pipeline", "sam_prompt", "--cells", "0"], "one cell or more", id="no prompts"
        ),
    ],
)
def test_wrong_usage(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    common = ["--json", "out.json", "--model-repository", "models"]
    done = CliRunner().invoke(main, [*common, *arguments])
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())


def test_a_repository_without_the_pipeline_is_one_message(tmp_path):
    arguments = ["--json", "out.json", "--model-repository", str(tmp_path), "--size", "64x64"]
    done = CliRunner().invoke(main, [*arguments, "--cells", "1"])
    assert done.exit_code == 1
    assert "must be exported" in done.output
