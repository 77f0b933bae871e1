"""SAM behind the real server: what a person points at, and what that costs the second time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import tritonclient.grpc as triton

from benchmarks.harness.serving import paused_supervisor
from cytoserve import AsyncClient, Cells, Client, InvalidPrompts, Prompts
from cytoserve.codec import prompted
from cytoserve.contract import PIPELINES
from export.parity.chain import Chain
from training.rendered import RenderSettings, render_frame

PIPELINE = "sam_prompt"


def rendered(height: int, width: int, seed: int = 0) -> np.ndarray:
    return render_frame(RenderSettings(height=height, width=width, cells=8), seed)[0]


def boxes(count: int, height: int, width: int) -> np.ndarray:
    random = np.random.default_rng(count)
    corner = random.uniform(0, 0.7, (count, 2)) * (width, height)
    return np.concatenate([corner, corner + random.uniform(10, 60, (count, 2))], axis=1)


PROMPTS = {
    "one box": lambda h, w: Prompts(boxes=boxes(1, h, w)),
    "42 boxes": lambda h, w: Prompts(boxes=boxes(42, h, w)),
    "clicks": lambda h, w: Prompts(points=[[(9, 9), (w / 2, h / 2)]], point_labels=[[0, 1]]),
    "boxes and clicks": lambda h, w: Prompts(
        boxes=[*boxes(2, h, w), None], points=[None, [(20, 20)], [(60, 50), (80, 70)]]
    ),
    "coarse masks": lambda h, w: Prompts(
        boxes=boxes(3, h, w), masks=np.full((3, 56, 56), 200, np.uint8)
    ),
}
FRAMES = {
    "8 bit RGB": lambda: np.dstack([rendered(200, 300) >> 8] * 3).astype(np.uint8),
    "odd, 16 bit": lambda: rendered(333, 171),
    "black": lambda: np.zeros((200, 300), np.uint8),
    # As many bytes of the same value, which the cache of the encoder's answers must tell apart.
    "black, transposed": lambda: np.zeros((300, 200), np.uint8),
}


@pytest.fixture(scope="module")
def client(server):
    with Client(server.url, timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def chain(exported_repository) -> Chain:
    return Chain(exported_repository, PIPELINE)


def executions(server, model: str) -> int:
    with triton.InferenceServerClient(server.url) as connection:
        [statistics] = connection.get_inference_statistics(model).model_stats
    return int(statistics.execution_count)


@pytest.mark.parametrize("prompts", PROMPTS.values(), ids=PROMPTS)
@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_the_server_answers_as_the_graphs_do(
    client: Client,
    chain: Chain,
    frame: Callable[[], np.ndarray],
    prompts: Callable[[int, int], Prompts],
) -> None:
    image = frame()
    asked = prompts(*image.shape[:2])
    cells = client.prompt(image, asked)
    request = prompted.encode_request(image, PIPELINES[PIPELINE], asked)
    expected = chain.run(request.inputs, ["prompt_boxes", "prompt_masks", "qualities"])
    np.testing.assert_allclose(cells.boxes, expected["prompt_boxes"], atol=1e-3)
    np.testing.assert_allclose(cells.scores, expected["qualities"], atol=1e-4)
    difference = np.abs(cells.patches.astype(int) - expected["prompt_masks"])
    assert difference.max() <= 1
    assert len(cells) == len(asked)
    assert cells.frame_shape == image.shape[:2]


def test_the_second_prompt_on_a_frame_does_not_run_the_encoder(
    server, client: Client, settled
) -> None:
    encoder = partial(executions, server, "sam_encoder")
    image = rendered(210, 310, seed=77)
    before = settled(encoder)
    client.prompt(image, Prompts(boxes=[(10, 10, 60, 60)]))
    first = settled(encoder)
    client.prompt(image, Prompts(points=[[(100, 90)]]))
    client.prompt(image, Prompts(boxes=boxes(5, 210, 310)))
    assert before < first == settled(encoder)


def test_cells_of_another_pipeline_are_made_finer(client: Client) -> None:
    image = rendered(200, 220)
    found = client.segment(image, "maskrcnn", score_threshold=0.9)
    assert len(found) > 0
    finer = client.prompt(image, Prompts.from_cells(found))
    assert isinstance(finer, Cells)
    assert len(finer) == len(found)


def test_the_asyncio_client_gets_the_same_answer(server, client: Client) -> None:
    image = rendered(200, 300)
    asked = Prompts(boxes=boxes(4, 200, 300))

    async def ask() -> Cells:
        async with AsyncClient(server.url, timeout=120) as connection:
            return await connection.prompt(image, asked)

    np.testing.assert_array_equal(asyncio.run(ask()).patches, client.prompt(image, asked).patches)


def test_prompts_outside_the_frame_are_refused_before_anything_is_sent(
    server, client: Client, settled
) -> None:
    def decoder() -> int:
        return executions(server, "sam_decoder")

    with paused_supervisor(server):
        before = settled(decoder)
        with pytest.raises(InvalidPrompts, match="lies in the frame"):
            client.prompt(rendered(200, 300), Prompts(points=[[(301, 20)]]))
        assert settled(decoder) == before
