"""Throughput: rates of many callers, layouts in process, and the command on the real server."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.harness.in_process import InProcess
from benchmarks.harness.load import load_frame
from benchmarks.harness.results import new_result
from benchmarks.harness.serving import DEFAULT, paused_supervisor
from benchmarks.throughput import perf_analyzer
from benchmarks.throughput.__main__ import main, variants_of
from benchmarks.throughput.clients import Callers, Exchange, answered_per_second
from benchmarks.throughput.layouts import InStep, Layout, Meeting, Opened, layouts
from benchmarks.throughput.perf_analyzer import PerfAnalyzerMissing, without_outputs_on_request
from benchmarks.throughput.saturation import Between, bound_among, measure_between, saturation_rows
from benchmarks.throughput.tables import rows_of, throughput_table
from benchmarks.throughput.windows import (
    CLIENT,
    MANY_PROCESSES,
    ONE_ON_THE_MACHINE,
    ONE_PROCESS,
    PERF_ANALYZER,
    TRITON,
    Meters,
    Sample,
    Served,
    StepCount,
)
from cytoserve import Client
from cytoserve.contract import LABELS
from cytoserve.model_config import config_file, read_config
from export.graphs.files import open_session
from export.parity.chain import newest_graph

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
    assert layouts(cores, batches=()) == [Layout(*layout) for layout in expected]
    assert layouts(cores)[len(expected) :] == [
        Layout(1, cores, callers=batch, batch=batch) for batch in (2, 8)
    ]


def test_callers_that_wait_for_one_another_end_with_the_same_frame():
    both = threading.Barrier(2, timeout=5)

    def slow(frame):
        both.wait()
        time.sleep(0.2)  # meanwhile the other begins its next frame, and both are told to stop

    callers = Callers([lambda n: both.wait(), slow], in_step=True)
    callers.start()
    callers.wait_until_warm()
    time.sleep(0.1)
    exchanges = callers.stop()
    assert len(exchanges) >= 2
    assert len(exchanges) % 2 == 0


def test_the_error_of_a_caller_is_raised():
    def refuse(frame):
        raise ValueError("no frame today")

    callers = Callers([lambda n: time.sleep(0.01), refuse])
    callers.start()
    callers.wait_until_warm()
    with pytest.raises(ValueError, match="no frame today"):
        callers.stop()


def test_a_meeting_answers_as_single_runs_do(exported_repository):
    session = open_session(newest_graph(exported_repository / "resnet50_cells"), threads=1)
    meeting = Meeting(session, callers=3)
    random = np.random.default_rng(0)
    crops = [random.integers(0, 256, (n, 3, 48, 48)).astype(np.uint8) for n in (1, 4, 2)]
    answers = {}

    def run(n):
        [answers[n]] = meeting.run(["crop_probs"], {"crops": crops[n]})

    threads = [threading.Thread(target=run, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n, crop in enumerate(crops):
        [alone] = session.run(["crop_probs"], {"crops": crop})
        np.testing.assert_allclose(answers[n], alone, atol=1e-5)


def test_a_layout_that_batches_answers_as_one_that_does_not(exported_repository):
    frames = [load_frame(160, 128, 3, seed) for seed in range(2)]
    together = InStep(exported_repository, "yolo", threads=1, callers=2)
    answers = {}

    def segment(n):
        answers[n] = Client(transport=together).segment(frames[n].image, "yolo")

    threads = [threading.Thread(target=segment, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = Client(transport=InProcess(exported_repository, ["yolo"], threads=1))
    for n, frame in enumerate(frames):
        expected = alone.segment(frame.image, "yolo")
        assert len(expected) > 0
        assert len(answers[n]) == len(expected)
        np.testing.assert_allclose(answers[n].boxes, expected.boxes, atol=0.01)


@pytest.mark.parametrize("batch", [1, 2])
def test_callers_of_a_layout(exported_repository, batch):
    frames = [load_frame(160, 128, 3)]
    layout = Layout(chains=1, threads=1, callers=2, batch=batch)
    opened = Opened(exported_repository, "yolo", layout, frames)
    for _ in range(2):  # a layout is used round by round
        callers = opened.callers()
        callers.start()
        callers.wait_until_warm()
        assert len(callers.stop()) >= 2


@pytest.mark.parametrize(
    ("threads", "batch", "known"),
    [
        pytest.param(1, 1, True, id="a thread each"),
        pytest.param(2, 1, False, id="threads share a run"),
        pytest.param(1, 2, False, id="frames share a run"),
    ],
)
def test_processor_seconds_of_steps_in_process(exported_repository, threads, batch, known):
    layout = Layout(chains=1, threads=threads, callers=2, batch=batch)
    opened = Opened(exported_repository, "yolo", layout, [load_frame(160, 128, 3)])
    before = time.process_time()
    callers = opened.callers()
    callers.start()
    callers.wait_until_warm()
    frames = len(callers.stop())
    spent = (time.process_time() - before) / frames
    seconds = opened.take_cpu_by_step()
    assert set(seconds) == ({"yolo_prepare", "yolo_targets", "yolo_decode"} if known else set())
    if known:
        assert 0.5 * spent < sum(seconds.values()) < spent, (spent, seconds)
    assert opened.take_cpu_by_step() == {}  # taken


def test_meters_tell_the_servers_processes_apart(server):
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
    parts = used.server_cpu_by_part
    assert min(parts[name] for name in (TRITON, "yolo_prepare", "yolo_targets")) > 0
    assert "nuclei_network" not in parts
    assert used.server_cpu == pytest.approx(sum(parts.values()))
    assert used.steps["yolo_targets"].requests == 20


def test_outputs_on_request_are_left_out(exported_repository, tmp_path):
    folder = without_outputs_on_request(exported_repository, ["yolo"], tmp_path)
    config = read_config(folder / "yolo" / "config.pbtxt")
    steps = config.ensemble_scheduling.step
    assert LABELS.name not in [tensor.name for tensor in config.output]
    assert [step.model_name for step in steps] == ["yolo_prepare", "yolo_targets", "yolo_decode"]
    assert "cell_boxes" not in steps[-1].output_map  # Triton refuses what nothing reads
    assert "boxes" in steps[-1].output_map
    for variant in ("single-graph", "throughput"):
        [merged] = read_config(config_file(folder / "yolo", variant)).ensemble_scheduling.step
        assert merged.model_name == "yolo_merged"
        assert "cell_boxes" not in merged.output_map
    other = read_config(folder / "yolo_resnet" / "config.pbtxt")
    assert other == read_config(exported_repository / "yolo_resnet" / "config.pbtxt")


def sample(rate, executions=1):
    steps = {"resnet50_cells": StepCount(requests=8, rows=80, executions=executions)}
    cpu = {"resnet50_cells": 1 / rate, TRITON: 0.5 / rate, CLIENT: 0.25 / rate}
    return Sample(rate, 0.1, 0.2, 8, 1.5, 0.25, 0.0, steps, cpu)


SAMPLES = {
    Layout(1, 2, 1): [sample(10.0), sample(20.0), sample(20.0)],
    Layout(2, 1, 2): [sample(30.0), sample(10.0), sample(10.0)],
    Served(ONE_PROCESS, 1): [sample(5.0)] * 3,
    Served(ONE_PROCESS, 8): [sample(9.0, 2), sample(16.0, 2), sample(20.0, 4)],
}


def test_rows():
    rows = rows_of("yolo_resnet", SAMPLES)
    assert [row["best"] for row in rows["in_process"]] == [True, False]
    alone, eight = rows["served"]
    assert eight["frames_per_second"] == 16
    assert eight["share"] == 0.9  # of the shares of each round: 0.9, 0.8 and 1
    assert alone["cpu_seconds_per_frame"] == pytest.approx(1.75 / 5)
    batch = rows["batches"][-1]
    assert (batch["requests_per_execution"], batch["rows_per_execution"]) == (3, 30)


@pytest.mark.parametrize(
    ("concurrency", "expected"), [([1, 2, 4, 8, 16], 8), ([1, 6, 32], 6), ([3], 3)]
)
def test_requests_at_a_time_that_are_compared_with_the_limit(concurrency, expected):
    assert bound_among(concurrency) == expected


LIMIT = Layout(2, 1, 2)
ALONE, TOGETHER = Served(ONE_PROCESS, 8), Served(MANY_PROCESSES, 8, "throughput")


def test_windows_are_compared_with_the_limits_beside_them():
    """The machine becomes half as fast in the course of five windows."""
    paces = iter([10.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0])
    asked = []

    class Slowing:
        def measure(self, way):
            asked.append(way)
            rate = next(paces)
            return sample(rate if way == LIMIT else 0.5 * rate)

    bench = Slowing()
    found = measure_between({DEFAULT: bench, "throughput": bench}, LIMIT, [ALONE, TOGETHER], 1)
    assert asked == [LIMIT, ALONE, LIMIT, TOGETHER, LIMIT]
    assert [between.share for each in found.values() for between in each] == [0.5, 0.5]


def between(rate):
    limit = replace(sample(20.0), cpu_by_part={"resnet50_cells": 0.02})
    return Between(sample(rate), limit, limit)


def page_of(saturation):
    rows = rows_of("yolo_resnet", SAMPLES)
    frames = {"rendered": False, "count": 4, "width": 64, "height": 64, "cells": None}
    settings = {"frames": frames, "rounds": 3, "window_seconds": 3.0}
    return throughput_table(new_result("throughput", **settings, saturation=saturation, **rows))


def test_a_merged_step_stands_beside_the_sum_of_what_it_joins():
    [row] = saturation_rows("yolo_resnet", LIMIT, {ALONE: [between(16.0)] * 2})
    row["cpu_seconds_by_part"] = {"yolo_resnet_merged": 0.06, TRITON: 0.002}
    row["limit_cpu_seconds_by_part"] = {"yolo_prepare": 0.003, "yolo_cells": 0.05}
    *_, header, _, served, limit = page_of([row]).split("\n\nMachine")[0].splitlines()
    assert header == f"| way | yolo_resnet_merged | {TRITON} | in all |"
    assert "| 60.0 | 2.0 |" in served
    assert limit.startswith("| the limit beside it | 53.0 |  |")


def test_the_table_shows_where_a_frames_processor_time_goes():
    found = {ALONE: [between(rate) for rate in (16.0, 20.0, 10.0)]}
    [row] = saturation = list(saturation_rows("yolo_resnet", LIMIT, found))
    assert (row["share"], row["share_interval"]) == (0.8, [0.5, 1])
    page = page_of(saturation)
    assert "**0.80** of the limit beside it (95 %: 0.50 to 1.00; 3 rounds)" in page
    *_, table = page.split("is the client's.")
    assert [line for line in table.splitlines() if line.startswith("|")] == [
        f"| way | resnet50_cells | {TRITON} | {CLIENT} | in all |",
        "|---|---|---|---|---|",
        f"| {DEFAULT}, 8 requests at a time, {ONE_PROCESS} | 62.5 | 31.2 | 15.6 | 109.4 |",
        "| the limit beside it | 20.0 |  |  | 87.5 |",
    ]


@pytest.mark.parametrize(
    ("pipeline", "variants"), [("yolo_resnet", ["throughput"]), ("glioma_unet", [])]
)
def test_variants_for_many_clients(pipeline, variants):
    assert variants_of(ROOT / "model_repository", pipeline) == variants


def installed():
    try:
        return bool(perf_analyzer.find())
    except PerfAnalyzerMissing:
        return False


@pytest.mark.slow
def test_the_command(exported_repository, tmp_path):
    """perf_analyzer takes part where it is installed."""
    clients = {ONE_PROCESS, ONE_ON_THE_MACHINE, MANY_PROCESSES}
    clients |= {PERF_ANALYZER} if installed() else set()
    small = ["--size", "160x128", "--cells", "3", "--concurrency", "3"]
    small += ["--rounds", "1", "--rounds-beside", "2"]
    arguments = [
        *("--model-repository", str(exported_repository), "--pipeline", "yolo"),
        *(*small, "--window", "0.3", "--json", str(tmp_path / "throughput.json")),
        *([] if installed() else ["--without-perf-analyzer"]),
    ]
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "throughput.json").read_text())
    assert throughput_table(result).strip() in done.output
    ways = {(variant, client) for variant in (DEFAULT, "throughput") for client in clients}
    assert {(row["variant"], row["client"]) for row in result["served"]} == ways
    for row in result["served"]:
        assert row["concurrency"] == 3
        assert row["frames_per_second"] > 0
        assert 0 < row["p50_seconds"] <= row["p99_seconds"]
    assert sum(row["server_cores"] for row in result["served"]) > 0
    assert sum(row["client_cores"] for row in result["in_process"]) > 0
    assert sum(row["best"] for row in result["in_process"]) == 1
    assert {row["step"] for row in result["batches"]} == {"yolo_targets"}
    assert min(row["requests_per_execution"] for row in result["batches"]) >= 1
    assert {(row["variant"], row["client"]) for row in result["saturation"]} == {
        ("throughput", client) for client in clients
    }
    for row in result["saturation"]:
        parts = row["cpu_seconds_by_part"]
        assert set(parts) == {TRITON, CLIENT, "yolo_merged"}
        assert row["concurrency"] == 3
        assert row["rounds"] == 2
        low, high = row["share_interval"]
        assert 0 < low <= row["share"] <= high
        assert row["limit_cpu_seconds_per_frame"] > 0


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
    common = ["--json", "out.json", "--model-repository", "models", "--without-perf-analyzer"]
    done = CliRunner().invoke(main, [*common, *arguments])
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())


def test_a_missing_tool_is_one_message(tmp_path, monkeypatch):
    monkeypatch.setattr(perf_analyzer, "FOLDER", tmp_path)
    arguments = ["--json", "out.json", "--model-repository", str(tmp_path)]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1
    assert "Run `make bench-tools`" in done.output


def test_a_repository_without_the_pipeline_is_one_message(tmp_path):
    arguments = ["--json", "out.json", "--model-repository", str(tmp_path), "--size", "64x64"]
    done = CliRunner().invoke(main, [*arguments, "--cells", "1", "--without-perf-analyzer"])
    assert done.exit_code == 1
    assert "yolo/config.pbtxt is absent" in done.output
