"""Variants that serve a pipeline as one graph: the same answers from other processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from cytoserve import Client
from server.embedded import EmbeddedServer
from server.tritonserver import workers_of
from training.rendered import RenderSettings, render_frame

PIPELINES = ("yolo", "yolo_resnet")
FRAMES = {
    "16 bit": render_frame(RenderSettings(height=480, width=640, cells=12), seed=0)[0],
    "RGB": np.dstack([render_frame(RenderSettings(height=333, width=517), seed=1)[0] >> 8] * 3),
    "1x1": np.full((1, 1), 7, np.uint16),
    "all black": np.zeros((200, 300), np.uint8),
}


@pytest.fixture(scope="module", params=[("single-graph", 1), ("throughput", 2)], ids=lambda p: p[0])
def variant(request: pytest.FixtureRequest, exported_repository: Path) -> Iterator[EmbeddedServer]:
    name, instances = request.param
    with EmbeddedServer(exported_repository, PIPELINES, variant=name) as server:
        [triton] = [p for p in psutil.Process(server.pid).children() if workers_of(p.pid)]
        models = [worker.model for worker in workers_of(triton.pid).values()]
        assert models.count("yolo_merged") == models.count("yolo_resnet_merged") == instances
        assert not {"yolo_prepare", "yolo_targets", "yolo_cells"} & set(models)
        yield server


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("frame", FRAMES)
def test_it_answers_as_the_steps_do(
    server: EmbeddedServer, variant: EmbeddedServer, pipeline: str, frame: str
) -> None:
    with Client(server.url, timeout=120) as steps, Client(variant.url, timeout=120) as merged:
        for threshold in (0.25, 0.9, 1.0):
            asked = (FRAMES[frame], pipeline)
            expected, cells = (
                client.segment(*asked, score_threshold=threshold, max_cells=200, labels=True)
                for client in (steps, merged)
            )
            assert cells.found == expected.found
            np.testing.assert_allclose(cells.boxes, expected.boxes, atol=1e-3)
            np.testing.assert_allclose(cells.class_probs, expected.class_probs, atol=1e-5)
            np.testing.assert_array_equal(cells.patches, expected.patches)
            assert cells.labels is not None
            assert expected.labels is not None
            np.testing.assert_array_equal(cells.labels, expected.labels)


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_the_client_tells_that_another_graph_answers(
    server: EmbeddedServer, variant: EmbeddedServer, pipeline: str
) -> None:
    with Client(server.url) as steps, Client(variant.url) as merged:
        assert list(merged.models(pipeline)) == [f"{pipeline}_merged"]
        assert f"{pipeline}_merged" not in steps.models(pipeline)
        assert {"yolo_prepare", "yolo_decode"} <= set(steps.models(pipeline))
