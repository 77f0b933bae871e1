"""Every graph equals its module, at 0, 1 and many, and a graph that does not is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from cytoserve.contract import CARD_INPUT, CARD_OUTPUT, STEPS
from cytoserve.model_config import MANIFEST_FILE
from export.graphs.files import open_session
from export.graphs.micro_batches import unwrap_loop
from export.parity import steps as parity_steps
from export.parity.steps import Case, ParityError, check_parity, deviation, pixels
from export.repository.pipelines import card_graph
from export.resnet import steps as resnet_steps
from export.resnet.network import ClassifierNetwork
from export.yolo import steps
from training.resnet.network import load_classifier
from training.yolo.network import load_network

Sabotage = Callable[[onnx.ModelProto], None]

COMPARED_BY_CELLS = ("yolo_decode", "maskrcnn_network", "maskrcnn_cells")
"""Steps whose cells are compared, not their tensors; see `export.parity.cells`."""

GRAPHS = [name for name in STEPS if name not in ("cell_labels", *COMPARED_BY_CELLS)]


@pytest.mark.parametrize("name", GRAPHS)
def test_figures_in_the_manifest(exported_repository: Path, name: str) -> None:
    manifest = json.loads((exported_repository / name / "1" / MANIFEST_FILE).read_text())
    assert len(manifest["parity"]) >= 2
    for figures in manifest["parity"].values():
        assert set(figures) == {tensor.name for tensor in STEPS[name].outputs}
        for tensor in STEPS[name].outputs:
            tolerance = {"FP32": 1e-4, "UINT8": 1.0, "INT32": 0.0}[tensor.dtype]
            assert 0 <= figures[tensor.name] <= tolerance


@pytest.mark.parametrize(
    ("expected", "answer", "figure"),
    [
        pytest.param(np.zeros(3), np.zeros(3), 0.0, id="equal"),
        pytest.param(np.zeros((0, 4)), np.zeros((0, 4)), 0.0, id="no rows"),
        pytest.param(np.zeros((0, 4)), np.zeros((0, 3)), np.inf, id="no rows of another width"),
        pytest.param(np.zeros(3), np.zeros(2), np.inf, id="shape"),
        pytest.param(np.zeros(3), np.zeros(3, np.float32), np.inf, id="dtype"),
        pytest.param(np.array([0.0]), np.array([np.nan]), np.inf, id="NaN on one side"),
        pytest.param(np.array([np.nan]), np.array([np.nan]), np.inf, id="NaN on both sides"),
        pytest.param(np.array([np.inf, 1]), np.array([5.0, 1]), np.inf, id="infinite in torch"),
        pytest.param(np.array([5.0, 1]), np.array([np.inf, 1]), np.inf, id="infinite in the graph"),
        pytest.param(np.array([-np.inf]), np.array([np.inf]), np.inf, id="other sign of infinity"),
        pytest.param(
            np.array([np.inf, 900.0]),
            np.array([np.inf, 909.0]),
            0.01,
            id="beside the same infinity",
        ),
        pytest.param(np.array([1000.0]), np.array([999.0]), 1e-3, id="large floats are relative"),
        pytest.param(np.array([0.5]), np.array([0.25]), 0.25, id="small floats are absolute"),
        pytest.param(np.uint8([255]), np.uint8([0]), 255.0, id="bytes do not wrap"),
    ],
)
def test_deviation(expected: np.ndarray, answer: np.ndarray, figure: float) -> None:
    assert deviation(expected, answer) == figure


def scale_weight(name: str, factor: float) -> Sabotage:
    def change(graph: onnx.ModelProto) -> None:
        [weight] = [w for w in graph.graph.initializer if w.name == name]
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * factor, name))

    return change


def swap_channels(graph: onnx.ModelProto) -> None:
    """RGB becomes BGR in front of the first convolution."""
    first = next(node for node in graph.graph.node if node.op_type == "Conv")
    [weight] = [w for w in graph.graph.initializer if w.name == first.input[1]]
    swapped = numpy_helper.to_array(weight)[:, ::-1].copy()
    weight.CopyFrom(numpy_helper.from_array(swapped, weight.name))


def scale_last_convolution(graph: onnx.ModelProto) -> None:
    last = [node for node in graph.graph.node if node.op_type == "Conv"][-1]
    scale_weight(last.input[1], 1.01)(graph)


def fix_input(name: str, value: np.ndarray) -> Sabotage:
    """A constant in place of an input, in loops as well."""

    def change(graph: onnx.ModelProto) -> None:
        rename(graph.graph, name, f"fixed_{name}")
        graph.graph.initializer.append(numpy_helper.from_array(value, f"fixed_{name}"))

    return change


def rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                rename(attribute.g, old, new)


def without_alignment(graph: onnx.ModelProto) -> None:
    """RoiAlign shifted by half a pixel, as its older form was."""
    [align] = [node for node in graph.graph.node if node.op_type == "RoiAlign"]
    [mode] = [a for a in align.attribute if a.name == "coordinate_transformation_mode"]
    mode.s = b"output_half_pixel"


@pytest.mark.parametrize(
    ("step", "sabotage"),
    [
        pytest.param("yolo_targets", swap_channels, id="channels swapped"),
        pytest.param("yolo_targets", scale_last_convolution, id="a weight 1 % off"),
        pytest.param(
            "yolo_decode",
            fix_input("overlap_threshold", np.array([0.95], np.float32)),
            id="overlap threshold fixed",
        ),
        pytest.param(
            "yolo_decode", fix_input("max_cells", np.array([4096], np.int32)), id="cap ignored"
        ),
        pytest.param("cell_crops", without_alignment, id="crops shifted by half a pixel"),
    ],
)
def test_a_wrong_graph_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    exported_repository: Path,
    checkpoints: Path,
    step: str,
    sabotage: Sabotage,
) -> None:
    graph = onnx.load(exported_repository / step / "1" / "model.onnx")
    if step == "yolo_targets":
        graph = unwrap_loop(graph)
    make = {
        "yolo_targets": lambda: steps.yolo_network(step, load_network(checkpoints / "targets")[0]),
        "yolo_decode": steps.yolo_decode,
        "cell_crops": resnet_steps.cell_crops,
    }[step]
    for module in (parity_steps, steps):
        monkeypatch.setattr(module, "trace_graph", lambda *_: graph)
    make()  # the graph as it was exported passes
    sabotage(graph)
    with pytest.raises(ParityError, match=f"^{step}, case '.*': ONNX Runtime deviates"):
        make()


def test_a_network_with_other_weights_is_refused(
    exported_repository: Path, checkpoints: Path
) -> None:
    graph = onnx.load(exported_repository / "resnet50_cells" / "1" / "model.onnx")
    classifier, _ = load_classifier(checkpoints / "classifier")
    module = ClassifierNetwork(classifier)
    cases = [Case("3 crops", (pixels(3, 3, 48, 48),))]
    check_parity(module, graph, STEPS["resnet50_cells"], cases)
    for parameter in classifier.resnet.fc.parameters():
        parameter.data = parameter.data.flip(0)
    with pytest.raises(ParityError, match="output 'crop_probs'"):
        check_parity(module, graph, STEPS["resnet50_cells"], cases)


def test_card_answers_its_content() -> None:
    content = {"pipeline": "yolo", "class_names": ["größer", "b"]}
    session = open_session(card_graph(content).SerializeToString())
    page = np.zeros(1, np.int64)
    [answer] = session.run([CARD_OUTPUT.name], {CARD_INPUT.name: page})
    assert json.loads(answer[0]) == content
