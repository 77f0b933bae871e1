"""A network in chunks: the same answers, in the memory of one chunk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.graphs.files import open_session
from export.graphs.micro_batches import wrap_in_loop

CHANNELS, SIDE, CLASSES = 48, 24, 3

PEAK = """
import re, sys
import numpy as np
from export.graphs.files import open_session
from pathlib import Path

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1))

session = open_session(Path(sys.argv[1]), 1)
crops = np.ones((3000, 3, 24, 24), np.float32)
before = peak()
rows = session.run(None, {"crops": crops})[0]
assert rows.shape == (3000, 3), rows.shape
print(peak() - before)
"""
"""Prints by how many kB a run of 3,000 crops raises the peak of the process's memory."""


THEN = helper.make_graph(
    [helper.make_node("Identity", ["seen"], ["alone"])],
    "without masks",
    [],
    [helper.make_tensor_value_info("alone", TensorProto.FLOAT, ["n", 3])],
)
ELSE = helper.make_graph(
    [helper.make_node("Add", ["seen", "masks"], ["both"])],
    "with masks",
    [],
    [helper.make_tensor_value_info("both", TensorProto.FLOAT, ["n", 3])],
)
"""Branches that read a chunk from outside."""


@pytest.fixture(scope="module")
def plain() -> onnx.ModelProto:
    """Two convolutions, a mean over the crop and a matrix: a classifier in small."""
    random = np.random.default_rng(0)
    weights = {
        "first": (CHANNELS, 3, 3, 3),
        "second": (CHANNELS, CHANNELS, 3, 3),
        "last": (CHANNELS, CLASSES),
    }
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["crops", "first"], ["a"], **pads),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "second"], ["c"], **pads),
        helper.make_node("GlobalAveragePool", ["c"], ["d"]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("MatMul", ["e", "last"], ["probs"]),
    ]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("crops", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("probs", TensorProto.FLOAT, ["n", CLASSES])],
        [
            numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name)
            for name, shape in weights.items()
        ],
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8)


@pytest.mark.parametrize("rows", [1, 31, 32, 33, 100])
def test_same_rows(plain: onnx.ModelProto, rows: int) -> None:
    crops = np.random.default_rng(rows).normal(size=(rows, 3, SIDE, SIDE)).astype(np.float32)
    [expected] = open_session(plain.SerializeToString(), 1).run(None, {"crops": crops})
    chunked = wrap_in_loop(plain, 32)
    [answer] = open_session(chunked.SerializeToString(), 1).run(None, {"crops": crops})
    np.testing.assert_allclose(answer, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [0, 1, 4, 9])
def test_rows_of_images(rows: int) -> None:
    """Results of any dtype and any fixed dims behind the rows."""
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMax", ["tiles"], ["highest"], axes=[1], keepdims=0),
            helper.make_node("Cast", ["highest"], ["levels"], to=TensorProto.UINT8),
        ],
        "tiles",
        [helper.make_tensor_value_info("tiles", TensorProto.FLOAT, ["n", 3, 5, 7])],
        [helper.make_tensor_value_info("levels", TensorProto.UINT8, ["n", 5, 7])],
    )
    opset = [helper.make_opsetid("", 17)]
    network = helper.make_model(graph, opset_imports=opset, ir_version=8)
    tiles = np.random.default_rng(0).integers(0, 256, (rows, 3, 5, 7)).astype(np.float32)
    session = open_session(wrap_in_loop(network, 4).SerializeToString(), 1)
    [answer] = session.run(None, {"tiles": tiles})
    assert answer.dtype == np.uint8
    np.testing.assert_array_equal(answer, tiles.max(axis=1).astype(np.uint8))


@pytest.mark.parametrize(
    ("rows", "masks"), [(0, 0), (1, 1), (9, 9), (9, 0)], ids=["none", "one", "many", "no masks"]
)
def test_some_inputs_are_chunked(rows: int, masks: int) -> None:
    """Two outputs, one input that every chunk sees whole, and one that may have no rows at all."""
    graph = helper.make_graph(
        [
            helper.make_node("Exp", ["frame"], ["scene"]),  # once, before the loop
            helper.make_node("Mul", ["scene", "points"], ["seen"]),
            helper.make_node("Constant", [], ["zero"], value_ints=[0]),
            helper.make_node("Shape", ["masks"], ["mask_rows"], start=0, end=1),
            helper.make_node("Equal", ["mask_rows", "zero"], ["no_masks"]),
            helper.make_node("If", ["no_masks"], ["whole"], then_branch=THEN, else_branch=ELSE),
            helper.make_node("ReduceSum", ["points", "one"], ["sums"], keepdims=0),
        ],
        "prompts",
        [
            helper.make_tensor_value_info("frame", TensorProto.FLOAT, [1, 3]),
            helper.make_tensor_value_info("points", TensorProto.FLOAT, ["n", 3]),
            helper.make_tensor_value_info("masks", TensorProto.FLOAT, ["c", 3]),
        ],
        [
            helper.make_tensor_value_info("whole", TensorProto.FLOAT, ["n", 3]),
            helper.make_tensor_value_info("sums", TensorProto.FLOAT, ["n"]),
        ],
        [numpy_helper.from_array(np.array([1]), "one")],
    )
    opset = [helper.make_opsetid("", 17)]
    network = helper.make_model(graph, opset_imports=opset, ir_version=8)
    chunked = wrap_in_loop(network, 4, ["points", "masks"])
    [loop] = [node for node in chunked.graph.node if node.op_type == "Loop"]
    assert "Exp" in [node.op_type for node in chunked.graph.node]
    assert "Exp" not in [node.op_type for node in loop.attribute[0].g.node]
    random = np.random.default_rng(0)
    feeds = {
        "frame": random.normal(size=(1, 3)).astype(np.float32),
        "points": random.normal(size=(rows, 3)).astype(np.float32),
        "masks": random.normal(size=(masks, 3)).astype(np.float32),
    }
    whole, sums = open_session(chunked.SerializeToString(), 1).run(None, feeds)
    seen = np.exp(feeds["frame"]) * feeds["points"]
    np.testing.assert_allclose(whole, seen + feeds["masks"] if masks else seen, rtol=1e-5)
    np.testing.assert_allclose(sums, feeds["points"].sum(axis=1), rtol=1e-5, atol=1e-6)


def test_no_rows(plain: onnx.ModelProto) -> None:
    crops = np.zeros((0, 3, SIDE, SIDE), np.float32)
    [answer] = open_session(wrap_in_loop(plain, 32).SerializeToString()).run(None, {"crops": crops})
    assert answer.shape == (0, CLASSES)


def test_memory_is_that_of_a_chunk(plain: onnx.ModelProto, tmp_path: Path) -> None:
    peaks = {}
    for name, model in (("plain", plain), ("chunked", wrap_in_loop(plain, 32))):
        onnx.save(model, tmp_path / name)
        command = [sys.executable, "-c", PEAK, str(tmp_path / name)]
        environment = {"PYTHONPATH": f"{Path(__file__).parents[3]}"}
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        peaks[name] = int(run.stdout)
    assert peaks["chunked"] < peaks["plain"] / 3, peaks
