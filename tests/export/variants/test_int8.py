"""Networks in 8-bit integers: what is computed in them, and when they are installed."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from export.__main__ import main
from export.graphs.decoding import decoding_nodes
from export.graphs.files import open_graph
from export.graphs.micro_batches import wrap_in_loop
from export.parity.accuracy_budget import beyond_budget, drops
from export.parity.chain import Chain
from export.variants import int8
from export.variants.int8 import Settings, network_rows, quantised
from training.rendered import RenderSettings, render_dataset, render_frame

ROWS = 16


def small_network() -> onnx.ModelProto:
    """Two convolutions, pooled, and a classifier: uint8 ``[B, 3, 8, 8]`` to float32 ``[B, 4]``."""
    random = np.random.default_rng(0)

    def weight(name: str, *dims: int) -> onnx.TensorProto:
        return numpy_helper.from_array(random.normal(0, 0.3, dims).astype(np.float32), name)

    node = helper.make_node
    graph = helper.make_graph(
        [
            node("Cast", ["x"], ["as_float"], "cast", to=TensorProto.FLOAT),
            node("Div", ["as_float", "most"], ["unit"], "div"),
            node("Conv", ["unit", "w1"], ["a"], "conv1", pads=[1, 1, 1, 1]),
            node("Relu", ["a"], ["b"], "relu"),
            node("Conv", ["b", "w2"], ["c"], "conv2", pads=[1, 1, 1, 1]),
            node("GlobalAveragePool", ["c"], ["d"], "pool"),
            node("Flatten", ["d"], ["e"], "flatten"),
            node("Gemm", ["e", "w3"], ["y"], "gemm"),
        ],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["B", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", 4])],
        [
            weight("w1", 8, 3, 3, 3),
            weight("w2", 8, 8, 3, 3),
            weight("w3", 8, 4),
            numpy_helper.from_array(np.float32(255), "most"),
        ],
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8)


def images(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (ROWS, 3, 8, 8), np.uint8)


def test_integers_answer_nearly_as_floats_do() -> None:
    network = small_network()
    integers = quantised(network, [{"x": images(seed)} for seed in range(4)])
    weights = Counter(weight.data_type for weight in integers.graph.initializer)
    assert weights[TensorProto.INT8] >= 3, "weights of both convolutions and of the classifier"
    expected, found = (
        open_graph(graph).run(["y"], {"x": images(9)})[0] for graph in (network, integers)
    )
    deviation = np.abs(found - expected).max() / np.abs(expected).max()
    # 0.03 where the processor has VNNI; without it sums of two products are cut off at 16 bits.
    assert 0 < deviation < 0.05


def test_a_network_in_chunks_stays_so() -> None:
    chunked = wrap_in_loop(small_network(), 5)
    integers = quantised(chunked, [{"x": images(0)}])
    assert "Loop" in {node.op_type for node in integers.graph.node}
    session = open_graph(integers)
    for rows in (0, 1, ROWS):
        assert session.run(["y"], {"x": images(1)[:rows]})[0].shape == (rows, 4)


def test_every_frame_gives_its_share_of_rows(
    exported_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "MAX_ROWS", 7)
    chain = Chain(exported_repository, "yolo_resnet")
    settings = Settings(score_threshold=0.0, overlap_threshold=1.0, command=())
    frames = [
        render_frame(RenderSettings(height=64, width=96, cells=2), seed)[0] for seed in range(3)
    ]
    for network, share in (("yolo_cells", 1), ("resnet50_cells", 2)):
        rows = list(network_rows(chain, network, frames, settings))
        assert [len(next(iter(each.values()))) for each in rows] == [share] * len(frames)


def test_nodes_that_decode_stay_in_float32() -> None:
    float32 = [
        "/network/model.10/m/m.0/attn/qkv/conv/Conv",
        "/network/model.23/cv2.0/cv2.0.2/Conv",
        "/network/model.23/cv3.2/cv3.2.2/Conv",
        "/network/model.23/dfl/conv/Conv",
        "/network/model.23/Concat_7",
    ]
    integers = [
        "/network/model.0/conv/Conv",
        "/network/model.12/Concat",
        "/network/model.23/cv2.0/cv2.0.1/conv/Conv",
        "/network/model.23/proto/cv3/act/Mul",
    ]
    names = [*float32, *integers]
    nodes = [helper.make_node("Relu", [f"{i}"], [f"{i + 1}"], name) for i, name in enumerate(names)]
    graph = helper.make_model(helper.make_graph(nodes, "names", [], []))
    assert decoding_nodes(graph) == float32


@pytest.mark.parametrize(
    ("after", "phrases"),
    [
        pytest.param({"iou": 0.796, "accuracy": 0.899}, [], id="within"),
        pytest.param({"iou": 0.9, "accuracy": 0.95}, [], id="better"),
        pytest.param({"iou": 0.794, "accuracy": 0.9}, ["iou drops by 0.0060"], id="IoU"),
        pytest.param({"iou": 0.8, "accuracy": 0.89}, ["accuracy drops by 0.0100"], id="accuracy"),
        pytest.param({"iou": math.nan, "accuracy": 0.9}, ["iou drops by nan"], id="nothing found"),
    ],
)
def test_budget(after: dict[str, float], phrases: list[str]) -> None:
    found = beyond_budget(drops({"iou": 0.8, "accuracy": 0.9}, after))
    assert len(found) == len(phrases)
    assert all(text.startswith(phrase) for text, phrase in zip(found, phrases, strict=True))


def test_dice_has_a_budget_of_its_own_and_recall_none() -> None:
    assert beyond_budget({"dice": 0.003}) == ["dice drops by 0.0030, 0.002 is allowed"]
    assert beyond_budget({"recall": 0.5}) == []


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rendered")
    settings = RenderSettings(height=320, width=320, cells=6)
    render_dataset(folder, frames=2, settings=settings, seed=7)
    return folder


def run_int8(repository: Path, frames: Path, data: Path, *more: str) -> tuple[int, str]:
    command = ["int8", "--pipeline", "yolo", "--frames", str(frames), "--data", str(data)]
    done = CliRunner().invoke(main, [*command, *more, "--model-repository", str(repository)])
    return done.exit_code, done.output


def test_frames_to_calibrate_on_prove_nothing(source_repository: Path, data: Path) -> None:
    code, output = run_int8(source_repository, data / "images", data)
    assert code == 2
    assert "2 of its 2 images are in --data as well" in output


def test_a_pipeline_must_be_exported(source_repository: Path, data: Path, tmp_path: Path) -> None:
    frame = next((data / "images").iterdir())
    (tmp_path / "other.png").write_bytes(frame.read_bytes())
    code, output = run_int8(source_repository, tmp_path, data)
    assert code == 1
    assert "python -m export yolo" in output


@pytest.mark.slow
def test_what_is_not_proven_is_not_installed(repository: Path, data: Path, tmp_path: Path) -> None:
    """At a score of 1 nothing is found, so nothing is proven."""
    frame = next((data / "images").iterdir())
    (tmp_path / "other.png").write_bytes(frame.read_bytes())
    before = sorted((repository / "yolo_targets").rglob("*"))
    code, output = run_int8(repository, tmp_path / "other.png", data, "--score-threshold", "1")
    assert code == 1
    assert "iou drops by nan, 0.005 is allowed" in output
    assert sorted((repository / "yolo_targets").rglob("*")) == before
