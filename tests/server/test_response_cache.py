"""Answers that Triton keeps: in a real server, told by its own counts of executions and hits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import np_to_triton_dtype

from server.embedded import EmbeddedServer
from server.installation import find_installation
from server.launcher import RESPONSE_CACHE_MB, response_cache_flags

CACHE_MB = 1  # Triton's own minimum

DOUBLE = "(float[N,K] x) => (float[N,K] y) { y = Add(x, x) }"
ROWS = "(float[K,2] x) => (float[K,2] y) { y = Add(x, x) }"
PREPARE = "(float[R,K] f) => (float[R,K] x) { x = Identity(f) }"
DECODE = (
    "(float[R,K] e, float[P] q) => (float[P] y) { s = ReduceMean<keepdims = 0>(e)  y = Add(q, s) }"
)

CACHED = "response_cache { enable: true }\n"


def entry(kind: str, name: str, dims: list[int]) -> str:
    return f'{kind} {{ name: "{name}" data_type: TYPE_FP32 dims: {dims} }}\n'


def model(repository: Path, name: str, graph: str, config: str) -> None:
    version = repository / name / "1"
    version.mkdir(parents=True)
    head = 'backend: "onnxruntime"\ninstance_group { count: 1 }\n'
    (version.parent / "config.pbtxt").write_text(head + config)
    text = f'<ir_version: 8, opset_import: ["" : 17]> {name} {graph}'
    onnx.save(onnx.parser.parse_model(text), version / "model.onnx")


def step(name: str, inputs: dict[str, str], outputs: dict[str, str]) -> str:
    maps = "".join(
        f'{kind} {{ key: "{key}" value: "{value}" }}\n'
        for kind, pairs in (("input_map", inputs), ("output_map", outputs))
        for key, value in pairs.items()
    )
    return f'step {{ model_name: "{name}" model_version: -1\n{maps}}}\n'


def fill(repository: Path) -> None:
    """A network whose answers are kept, alone and between two steps; a step of any rows."""
    batches = "max_batch_size: 4\ndynamic_batching { }\n" + CACHED
    sides = entry("input", "x", [-1]) + entry("output", "y", [-1])
    model(repository, "network", DOUBLE, batches + sides)
    rows = entry("input", "x", [-1, 2]) + entry("output", "y", [-1, 2])
    model(repository, "rows", ROWS, CACHED + rows)
    sides = entry("input", "f", [-1, -1]) + entry("output", "x", [-1, -1])
    model(repository, "prepare", PREPARE, sides)
    sides = entry("input", "e", [-1, -1]) + entry("input", "q", [-1]) + entry("output", "y", [-1])
    model(repository, "decode", DECODE, sides)
    sides = entry("input", "f", [-1, -1]) + entry("input", "q", [-1]) + entry("output", "y", [-1])
    steps = (
        step("prepare", {"f": "f"}, {"x": "x"})
        + step("network", {"x": "x"}, {"y": "e"})
        + step("decode", {"e": "e", "q": "q"}, {"y": "y"})
    )
    (repository / "prompt" / "1").mkdir(parents=True)
    (repository / "prompt" / "config.pbtxt").write_text(
        f'platform: "ensemble"\n{sides}ensemble_scheduling {{\n{steps}}}\n'
    )


@dataclass(frozen=True)
class Asking:
    """Asks a server's models, and how often they ran."""

    client: InferenceServerClient
    settled: Callable[[Callable[[], tuple[int, int]]], tuple[int, int]]

    def ask(self, name: str, **arrays: np.ndarray) -> np.ndarray:
        inputs = []
        for key, array in arrays.items():
            inputs.append(InferInput(key, array.shape, np_to_triton_dtype(array.dtype)))
            inputs[-1].set_data_from_numpy(array)
        answer: np.ndarray = self.client.infer(name, inputs, client_timeout=30).as_numpy("y")
        return answer

    def counts(self, name: str) -> tuple[int, int]:
        """Executions and hits so far."""

        def read() -> tuple[int, int]:
            statistics = self.client.get_inference_statistics(name).model_stats[0]
            return int(statistics.execution_count), int(statistics.inference_stats.cache_hit.count)

        return self.settled(read)


def served(
    tiny_repository: Path,
    served_folder: Callable[[EmbeddedServer], Path],
    megabytes: int,
    settled: Any,
) -> Iterator[Asking]:
    with EmbeddedServer(tiny_repository, ["yolo"], response_cache_mb=megabytes) as server:
        fill(served_folder(server))
        client = server.admin_client()
        for name in ("prompt", "rows"):
            client.load_model(name)
        yield Asking(client, settled)
        client.close()


@pytest.fixture(scope="module")
def kept(
    tiny_repository: Path, served_folder: Callable[[EmbeddedServer], Path], settled: Any
) -> Iterator[Asking]:
    """A server with the smallest cache."""
    yield from served(tiny_repository, served_folder, CACHE_MB, settled)


def values(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, np.float32)


@pytest.mark.parametrize(
    ("name", "shape", "runs", "hits"),
    [
        pytest.param("network", (1, 1000), 1, 2, id="kept"),
        pytest.param("network", (4, 1000), 1, 2, id="several rows"),
        pytest.param("rows", (3, 2), 1, 2, id="a step without a batch"),
        pytest.param("network", (1, 400_000), 3, 0, id="larger than the cache: answered, not kept"),
        pytest.param("rows", (0, 2), 3, 0, id="no rows: answered, not kept"),
    ],
)
def test_the_same_request_three_times(
    kept: Asking, name: str, shape: tuple[int, ...], runs: int, hits: int
) -> None:
    runs_before, hits_before = kept.counts(name)
    asked = values(sum(shape), *shape)
    for _ in range(3):
        np.testing.assert_array_equal(kept.ask(name, x=asked), asked + asked)
    runs_after, hits_after = kept.counts(name)
    assert (runs_after - runs_before, hits_after - hits_before) == (runs, hits)


def test_another_request_is_answered_anew(kept: Asking) -> None:
    runs, hits = kept.counts("network")
    for last in range(3):
        asked = values(7, 1, 500)
        asked[0, -1] = last
        assert kept.ask("network", x=asked)[0, -1] == 2 * last
    assert kept.counts("network") == (runs + 3, hits)


def test_what_was_not_used_for_longest_gives_way(kept: Asking) -> None:
    frames = [values(seed, 1, 80_000) for seed in range(4)]  # a third of the cache each
    for frame in frames:
        kept.ask("network", x=frame)
    runs, hits = kept.counts("network")
    kept.ask("network", x=frames[3])
    assert kept.counts("network") == (runs, hits + 1)
    kept.ask("network", x=frames[0])
    assert kept.counts("network") == (runs + 1, hits + 1)


@pytest.mark.parametrize("prompts", [0, 1, 3])
def test_further_prompts_on_a_frame_do_not_run_the_network(kept: Asking, prompts: int) -> None:
    frame = values(100 + prompts, 1, 2000)
    runs, hits = kept.counts("network")
    decoded, _ = kept.counts("decode")
    for asked in range(3):
        answer = kept.ask("prompt", f=frame, q=np.full(prompts, asked, np.float32))
        np.testing.assert_allclose(answer, asked + 2 * frame.mean(), rtol=1e-5)
        assert answer.shape == (prompts,)
    assert kept.counts("network") == (runs + 1, hits + 2)
    assert kept.counts("decode")[0] == decoded + 3


def test_without_a_cache_every_request_runs(
    tiny_repository: Path, served_folder: Callable[[EmbeddedServer], Path], settled: Any
) -> None:
    for asking in served(tiny_repository, served_folder, 0, settled):
        for _ in range(2):
            asking.ask("network", x=values(0, 1, 9))
        assert asking.counts("network") == (2, 0)


def test_flags() -> None:
    installation = find_installation()
    assert response_cache_flags(0, installation) == []
    folder, size = response_cache_flags(RESPONSE_CACHE_MB, installation)
    assert (installation.caches / "local" / "libtritoncache_local.so").is_file()
    assert folder == f"--cache-directory={installation.caches}"
    assert size == f"--cache-config=local,size={RESPONSE_CACHE_MB * 2**20}"
