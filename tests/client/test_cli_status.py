"""``cytoserve status``: what the statistics of Triton become in its table."""

from __future__ import annotations

import pytest
from tritonclient.grpc import service_pb2

from cytoserve import FakeServer
from cytoserve.access import Access
from cytoserve.cli.exit_codes import ExitCode
from cytoserve.contract import PIPELINES
from cytoserve.statistics import read_statistics

MS = 1_000_000


def counted(model, version=1, requests=4, errors=0, mean=0, queue=0, compute=0):
    """One model's statistics; times are means in milliseconds."""
    duration = service_pb2.StatisticDuration
    return service_pb2.ModelStatistics(
        name=model,
        version=str(version),
        inference_stats=service_pb2.InferStatistics(
            success=duration(count=requests, ns=requests * mean * MS),
            fail=duration(count=errors),
            queue=duration(count=requests, ns=requests * queue * MS),
            compute_infer=duration(count=requests, ns=requests * compute * MS),
        ),
    )


STEPS = [
    counted("yolo_prepare", queue=1, compute=5),
    counted("yolo_targets", queue=2, compute=60),
    counted("yolo_decode", queue=3, compute=7),
]


def row(output, pipeline):
    [line] = [line for line in output.splitlines() if line.split()[:1] == [pipeline]]
    return line.split()


@pytest.mark.parametrize(
    ("statistics", "expected"),
    [
        pytest.param(
            [counted("yolo", 2, 1204, 3, mean=84), *STEPS],
            ["yolo", "2", "1,204", "3", "84.0", "6.0", "72.0", "default"],
            id="all",
        ),
        pytest.param(
            [counted("yolo", 1, 9), counted("yolo", 10, 4, mean=2), *STEPS],
            ["yolo", "10", "4", "0", "2.0", "6.0", "72.0", "default"],
            id="the-newest-of-two-versions",
        ),
        pytest.param(
            [counted("yolo", 1, 0, 5), counted("other", queue=99)],
            ["yolo", "1", "0", "5", "0.0", "0.0", "0.0", "default"],
            id="nothing-answered",
        ),
        pytest.param(
            [counted("yolo", 1, 4, mean=50), counted("yolo_merged", compute=40)],
            ["yolo", "1", "4", "0", "50.0", "0.0", "40.0", "default"],
            id="one-graph",
        ),
    ],
)
def test_a_pipeline_has_one_row(triton, command, statistics, expected):
    triton.fake._pipelines = ("yolo",)
    triton.statistics = statistics
    result = command("status", "--url", triton.url)
    assert result.exit_code == ExitCode.DONE, result.output
    assert row(result.output, "yolo") == expected
    assert "nuclei_unet" not in result.output


def test_a_graph_other_than_the_default_is_named(triton, command, cells):
    class WithCard(FakeServer):
        def _card(self, pipeline):
            from dataclasses import replace

            models = {"yolo_targets": {"version": 1, "sha256": "ab"}}
            return replace(super()._card(pipeline), models=models)

    triton.fake = WithCard(cells, pipelines=("yolo",))
    triton.configs["yolo_targets"] = service_pb2.ModelConfigResponse().config
    triton.configs["yolo_targets"].default_model_filename = "model.int8.onnx"
    triton.statistics = [counted("yolo")]
    result = command("status", "--url", triton.url)
    assert row(result.output, "yolo")[-1] == "model.int8.onnx"


def test_nothing_served_is_told(triton, command):
    triton.fake._pipelines = ()
    result = command("status", "--url", triton.url)
    assert result.exit_code == ExitCode.NOTHING_TO_DO
    assert "python -m export yolo" in result.output


def test_a_server_that_is_not_there_is_told(command):
    result = command("status", "--url", "localhost:1", "--timeout", "2")
    assert result.exit_code == ExitCode.SERVER_FAILED
    assert "Traceback" not in result.output


def test_every_version_of_every_model_is_read(triton):
    triton.statistics = [counted(name, 3, requests=7, mean=2) for name in PIPELINES]
    read = read_statistics(triton.url, Access(), 10)
    assert [(each.model, each.version, each.requests, each.mean_ms) for each in read] == [
        (name, 3, 7, 2.0) for name in PIPELINES
    ]
