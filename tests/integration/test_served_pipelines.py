"""The exported instance pipelines through the real server: the main job, end to end."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import psutil
import pytest

from benchmarks.harness.memory import resident_bytes
from cytoserve import AsyncClient, Client, LearnedAppearance
from cytoserve.contract import INSTANCE_OUTPUTS, PIPELINES
from export.parity.chain import Chain
from export.parity.instances import instance_inputs
from training.rendered import RenderSettings, render_frame

FRAMES = {
    "640x480 RGB 8 bit": lambda: np.dstack([rendered(480, 640, 15) >> 8] * 3).astype(np.uint8),
    "6 tiles, 16 bit": lambda: rendered(1100, 1500, 30),
    "1x1": lambda: np.full((1, 1), 7, np.uint16),
    "odd": lambda: rendered(333, 517, 10),
    "all black": lambda: np.zeros((200, 300), np.uint8),
    "saturated": lambda: np.full((300, 200, 3), 65535, np.uint16),
}

INSTANCE_PIPELINES = [name for name, pipeline in PIPELINES.items() if pipeline.is_instance]

EVERYTHING = {"score_threshold": 0.0, "overlap_threshold": 1.0}
"""Every anchor or proposal with a mask is a cell."""

ENOUGH = 100
"""Cells to compare one by one; a random network finds thousands where there is no structure."""

MANY = 800
"""Cells that a random network finds then, at least."""


def rendered(height: int, width: int, cells: int) -> np.ndarray:
    settings = RenderSettings(height=height, width=width, cells=cells, shrink_to_fit=True)
    return render_frame(settings, seed=0)[0]


@pytest.fixture(scope="module")
def client(server):
    with Client(server.url, timeout=600) as client:
        yield client


@pytest.fixture(scope="module", params=INSTANCE_PIPELINES)
def pipeline(request):
    return request.param


@pytest.fixture(scope="module")
def chains(exported_repository):
    return {name: Chain(exported_repository, name) for name in INSTANCE_PIPELINES}


@pytest.mark.parametrize("threshold", [0.9, 0.25], ids=["few cells", "many cells"])
@pytest.mark.parametrize("name", FRAMES)
def test_the_server_answers_as_the_graphs_do(client, chains, pipeline, name, threshold):
    frame = FRAMES[name]()
    cells = client.segment(frame, pipeline, score_threshold=threshold, max_cells=ENOUGH)
    camera = np.atleast_3d(frame).astype(np.uint16)
    scale = client.card(pipeline).scale
    inputs = instance_inputs(
        camera,
        threshold,
        ENOUGH,
        scale=scale.network_scale,
        tile_overlap=scale.largest_cell_px * scale.network_scale,
    )
    expected = chains[pipeline].run(inputs, [tensor.name for tensor in INSTANCE_OUTPUTS])
    np.testing.assert_allclose(cells.boxes, expected["boxes"], atol=1e-3)
    np.testing.assert_allclose(cells.scores, expected["scores"], atol=1e-5)
    np.testing.assert_array_equal(cells.class_ids, expected["class_ids"])
    np.testing.assert_array_equal(cells.patches, expected["masks"])
    assert cells.found == expected["cells_found"][0]
    assert cells.frame_shape == frame.shape[:2]


def test_thousands_of_cells_and_none(client, pipeline):
    frame = rendered(640, 640, 15)
    many = client.segment(frame, pipeline, **EVERYTHING, max_cells=MANY + 1)
    assert len(many) > MANY
    assert np.all(np.diff(many.scores) <= 0)
    none = client.segment(frame, pipeline, score_threshold=1.0)
    assert len(none) == none.found == 0
    assert none.class_probs.shape == (0, len(none.class_names))


def test_the_cap_is_reported(client, pipeline):
    frame = rendered(640, 640, 15)
    cells = client.segment(
        frame, pipeline, score_threshold=0.0, overlap_threshold=1.0, max_cells=50
    )
    assert len(cells) <= 50
    assert cells.capped
    assert cells.found > MANY
    assert cells.warnings[0].startswith(f"{cells.found:,} cells found, the best {len(cells)} kept.")


def test_labels_are_painted_as_the_client_would(client, pipeline):
    frame = rendered(480, 640, 15)
    painted = client.segment(frame, pipeline, score_threshold=0.25, labels=True)
    without = client.segment(frame, pipeline, score_threshold=0.25)
    assert painted.labels is not None
    assert painted.labels.max() > 0
    np.testing.assert_array_equal(painted.labels, without.label_image())


def executions(server, model: str) -> tuple[int, int]:
    """Inferences and executions of a model so far, from the server's own statistics."""
    import tritonclient.grpc as triton

    with triton.InferenceServerClient(server.url) as connection:
        [statistics] = connection.get_inference_statistics(model).model_stats
    return statistics.inference_count, statistics.execution_count


def test_the_label_image_is_painted_only_when_asked_for(server, client, pipeline, settled):
    painted = partial(executions, server, "cell_labels")
    frame = rendered(200, 200, 3)
    before = settled(painted)
    client.segment(frame, pipeline)
    assert settled(painted) == before
    client.segment(frame, pipeline, labels=True)
    assert settled(painted) == (before[0] + 1, before[1] + 1)


def test_frames_of_several_clients_share_an_execution(server, client):
    frame = rendered(640, 640, 15)
    before = executions(server, "yolo_targets")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.segment(frame, "yolo"), range(24)))
    inferences, runs = np.subtract(executions(server, "yolo_targets"), before)
    assert inferences >= 24  # the supervisor's canaries are counted too
    assert runs < inferences
    for answer in answers:
        np.testing.assert_allclose(answer.boxes, answers[0].boxes, atol=1e-2)


def test_the_asyncio_client_gets_the_same_answer(server, client, pipeline):
    frame = rendered(480, 640, 15)

    async def ask():
        async with AsyncClient(server.url, timeout=600) as connection:
            return await asyncio.gather(*(connection.segment(frame, pipeline) for _ in range(3)))

    expected = client.segment(frame, pipeline)
    for cells in asyncio.run(ask()):
        np.testing.assert_allclose(cells.boxes, expected.boxes, atol=1e-2)
        assert cells.class_names == expected.class_names


def test_memory_grows_with_frame_and_patches_not_with_their_product(server, client, pipeline):
    """1,000 cells on 2048 x 2048: as full-frame masks they would take 4 GB."""
    frame = rendered(2048, 2048, 60)
    client.segment(frame, pipeline, score_threshold=1.0)
    before = resident_bytes(server.pid) + psutil.Process().memory_info().rss
    cells = client.segment(
        frame, pipeline, score_threshold=0.0, overlap_threshold=1.0, max_cells=1000
    )
    grown = resident_bytes(server.pid) + psutil.Process().memory_info().rss - before
    assert len(cells) > MANY
    assert grown < 1e9


def test_the_card_names_classes_and_every_model(client, pipeline):
    card = client.card(pipeline)
    assert card.pipeline == pipeline
    kind = PIPELINES[pipeline]
    assert set(card.models) == {*kind.steps, kind.merged_step} - {"cell_labels", None}
    assert all(len(sha256) == 64 for sha256 in card.hashes().values())
    assert len(card.class_names) == 2
    assert card.appearance == LearnedAppearance(("grey",), (0.4, 0.6))


def test_a_frame_unlike_those_of_the_training_is_told(client, pipeline):
    """The test checkpoints know grey frames of a medium background."""
    dark = np.zeros((200, 200), np.uint8)
    dark[90:100, 90:100] = 250
    stained = np.dstack([dark, 255 - dark, dark])
    for frame, kinds in ((dark, set()), (stained, {"colours"})):
        found = {doubt.kind for doubt in client.segment(frame, pipeline).doubts}
        assert found & {"colours", "background"} == kinds
