"""perf_analyzer: what it prints is read, its input is ours, and what is missing is said."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.harness.load import LoadFrame
from benchmarks.harness.serving import paused_supervisor
from benchmarks.throughput import perf_analyzer
from benchmarks.throughput.__main__ import requests_of
from benchmarks.throughput.perf_analyzer import PerfAnalyzerFailed, PerfAnalyzerMissing, read_report
from benchmarks.throughput.windows import Meters
from cytoserve.codec.cards import ModelCard
from training.rendered import RenderSettings, render_frame

RECORDED = Path(__file__).with_name("perf_analyzer_output.txt")
"""A run of `yolo_resnet`, 4 requests at a time, 16 in all, on a busy machine."""


@pytest.fixture(scope="module")
def tool():
    try:
        return perf_analyzer.find()
    except PerfAnalyzerMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def request_of_a_frame():
    frame, _ = render_frame(RenderSettings(width=96, height=80, cells=2), seed=0)
    [request] = requests_of(ModelCard("yolo", ("cell",)), [LoadFrame(frame, 2, None)])
    return request


def test_what_it_prints_is_read():
    report = read_report(RECORDED.read_text(), cpu_seconds=0.5)
    assert report.answers == 16
    assert report.frames_per_second == 1.33065
    assert (report.p50, report.p99) == (2.724168, 4.557153)
    assert report.cpu_seconds == 0.5


@pytest.mark.parametrize(
    ("output", "message"),
    [
        pytest.param("", "nothing", id="silence"),
        pytest.param("Request concurrency: 4\nerror: no luck\n", "error: no luck", id="an error"),
        pytest.param("Client:\n  Request count: 16\n", "Request count: 16", id="cut off"),
    ],
)
def test_output_without_a_measurement(output, message):
    with pytest.raises(PerfAnalyzerFailed, match=message):
        read_report(output)


def test_frames_are_written_as_they_are(tmp_path, request_of_a_frame):
    perf_analyzer.write_frames([request_of_a_frame, request_of_a_frame], tmp_path / "frames.json")
    first, _ = json.loads((tmp_path / "frames.json").read_text())["data"]
    assert list(first) == list(request_of_a_frame.inputs)
    for name, array in request_of_a_frame.inputs.items():
        data = base64.b64decode(first[name]["content"]["b64"])
        written = np.frombuffer(data, array.dtype).reshape(first[name]["shape"])
        np.testing.assert_array_equal(written, array)


def test_without_it_the_command_that_installs_it_is_named(tmp_path):
    with pytest.raises(PerfAnalyzerMissing, match=r"is not there\. Run `make bench-tools`\.$"):
        perf_analyzer.find(tmp_path)


def test_without_its_libraries_the_missing_one_is_named(tmp_path, tool):
    (tmp_path / "bin").symlink_to(tool.program.parent)
    with pytest.raises(PerfAnalyzerMissing, match=r"lib\S+\.so\S*: cannot open .* `make bench"):
        perf_analyzer.find(tmp_path)


def ask(tool, url, model, frames):
    with tool.asking(url, model, frames, concurrency=2, seconds=6) as measurement:
        return measurement.report()


def test_it_asks_the_real_server(server, tool, tmp_path, request_of_a_frame):
    perf_analyzer.write_frames([request_of_a_frame], tmp_path / "frames.json")
    with Meters(server.url, "yolo", server.pid) as meters, paused_supervisor(server):
        before = meters.read()
        report = ask(tool, server.url, "yolo", tmp_path / "frames.json")
        counted = meters.read().since(before).steps["yolo_targets"]
    assert counted.requests >= report.answers > 0  # some are on the way at either end
    assert 6 <= report.answers / report.frames_per_second < 12  # its windows run over a little
    assert 0 < report.p50 <= report.p99
    assert report.cpu_seconds > 0


def test_a_model_that_is_not_served(server, tool, tmp_path, request_of_a_frame):
    perf_analyzer.write_frames([request_of_a_frame], tmp_path / "frames.json")
    with pytest.raises(PerfAnalyzerFailed, match="unknown model: 'no_such_model'"):
        ask(tool, server.url, "no_such_model", tmp_path / "frames.json")
