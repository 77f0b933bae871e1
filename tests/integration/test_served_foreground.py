"""The semantic pipelines through the real server: frames of any size and content."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import tritonclient.grpc as triton

from cytoserve import Client
from cytoserve.contract import PIPELINES, WHITE_LEVEL_INPUT
from export.parity.chain import Chain
from export.parity.foregrounds import foreground_inputs
from training.rendered import RenderSettings, render_frame

SEMANTIC = [name for name, pipeline in PIPELINES.items() if pipeline.is_semantic]
WHITE = 4095.0


def rendered(height: int, width: int) -> np.ndarray:
    settings = RenderSettings(height=height, width=width, cells=10, shrink_to_fit=True)
    return render_frame(settings, seed=0)[0] >> 4


FRAMES = {
    "1x1": lambda: np.full((1, 1), 700, np.uint16),
    "one pixel wide": lambda: rendered(300, 40)[:, :1],
    "one pixel high, RGB": lambda: np.dstack([rendered(40, 500)[:1]] * 3),
    "odd": lambda: rendered(333, 517),
    "tiles, RGB": lambda: np.dstack([rendered(256, 384)] * 3),
    "less than a tile": lambda: rendered(60, 70),
    "black": lambda: np.zeros((200, 300), np.uint16),
    "white": lambda: np.full((200, 300, 3), WHITE, np.uint16),
    "saturated": lambda: np.full((300, 200, 3), 65535, np.uint16),
}


@pytest.fixture(scope="module")
def client(server):
    with Client(server.url, timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def chains(exported_repository):
    return {name: Chain(exported_repository, name, threads=1) for name in SEMANTIC}


def settings(pipeline: str, threshold: float) -> dict[str, float]:
    takes_white_level = WHITE_LEVEL_INPUT in PIPELINES[pipeline].inputs
    return {"probability_threshold": threshold} | (
        {"white_level": WHITE} if takes_white_level else {}
    )


@pytest.mark.parametrize("threshold", [0.5, 0.2, 1.0])
@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("pipeline", SEMANTIC)
def test_the_server_answers_as_the_graphs_do(client, chains, pipeline, name, threshold):
    frame = FRAMES[name]()
    answer = client.foreground(frame, pipeline, **settings(pipeline, threshold))
    camera = np.atleast_3d(frame).astype(np.uint16)
    expected = chains[pipeline].run(
        foreground_inputs(pipeline, camera, WHITE, threshold),
        [tensor.name for tensor in PIPELINES[pipeline].outputs],
    )
    np.testing.assert_allclose(
        answer.probability.astype(int), expected["probability"].astype(int), atol=1
    )
    assert answer.probability.shape == frame.shape[:2]
    assert (answer.mask == expected["mask"].astype(bool)).mean() > 0.999
    if pipeline == "nuclei_unet":
        np.testing.assert_array_equal(answer.centres, expected["centres"])
        np.testing.assert_allclose(answer.centre_scores, expected["centre_scores"], atol=1e-3)


def test_nuclei_are_found_and_none_is_an_answer(client):
    frame = FRAMES["tiles, RGB"]()
    assert len(client.foreground(frame, "nuclei_unet", white_level=WHITE).centres) > 0
    none = client.foreground(frame, "nuclei_unet", probability_threshold=1.0, white_level=WHITE)
    assert none.centres.shape == (0, 2)
    assert none.centre_scores.shape == (0,)


def executions(server, model: str) -> tuple[int, int]:
    """Inferences and executions of a model so far, from the server's own statistics."""
    with triton.InferenceServerClient(server.url) as connection:
        [statistics] = connection.get_inference_statistics(model).model_stats
    return statistics.inference_count, statistics.execution_count


def test_tiles_of_several_clients_share_an_execution(server, client, settled):
    frame = FRAMES["less than a tile"]()
    expected = client.foreground(frame, "nuclei_unet", white_level=WHITE)
    count = partial(executions, server, "nuclei_network")
    before = settled(count)
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(
                lambda _: client.foreground(frame, "nuclei_unet", white_level=WHITE), range(24)
            )
        )
    inferences, runs = np.subtract(settled(count), before)
    assert inferences >= 24  # one tile each; the supervisor's canaries are counted too
    assert runs < inferences
    for answer in answers:
        np.testing.assert_array_equal(answer.probability, expected.probability)


@pytest.mark.parametrize("pipeline", SEMANTIC)
def test_the_card_names_class_and_every_model(client, pipeline):
    card = client.card(pipeline)
    assert set(card.models) == set(PIPELINES[pipeline].steps)
    assert card.class_names == ("nuclei" if pipeline == "nuclei_unet" else "glioma",)
