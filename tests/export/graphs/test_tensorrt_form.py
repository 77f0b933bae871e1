"""TensorRT's form of a graph: the same numbers, in the types and without the loops it refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from onnx import TensorProto

from cytoserve.contract import STEPS
from export.graphs.decoding import decoding_nodes
from export.graphs.files import open_graph
from export.graphs.micro_batches import wrap_in_loop, wrap_in_row_scan
from export.graphs.tensorrt_form import half_precision, tensorrt_form
from export.graphs.trace import trace_graph
from export.parity.half_precision import half_deviation
from export.sam.network import ImageEncoder
from export.unet.network import TileNetwork, WholeFrameNetwork
from training.rendered import RenderSettings, render_frame
from training.sam.network import build_sam
from training.sam.settings import TINY
from training.yolo.network import YoloNetwork, load_network

ROOT = Path(__file__).parents[3]
GENERAL = ROOT / "training/general/yolo"


def parsed(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> g {text}')


ROW = "(uint8[B,4] x) => (uint8[B,4] y)"
GRAPHS = {
    "levels shifted, as floats": f"""{ROW} <float[1] half = {{0.5}}> {{
        f = Cast<to = 1>(x)  s = Mul(f, half)  r = Round(s)  y = Cast<to = 2>(r) }}""",
    "moved as they are": f"""{ROW} <int64[4] order = {{3, 1, 0, 2}}> {{
        g = Gather<axis = 1>(x, order)  y = Identity(g) }}""",
    "compared with a level": f"""{ROW} <uint8[1] level = {{128}}, uint8[1] none = {{0}}> {{
        m = Greater(x, level)  y = Where(m, x, none) }}""",
    "a constant level": f"""{ROW} {{
        c = Constant<value = uint8[1] {{7}}>()  s = Shape(x)
        e = Expand(c, s)  j = Max(x, e)  y = Identity(j) }}""",
    "an input that is an output": "(uint8[B,4] x) => (uint8[B,4] y) { y = Identity(x) }",
}


def types_inside(graph: onnx.GraphProto) -> Iterator[int]:
    """Element types of what nodes cast to, constants and weights, in subgraphs too."""
    yield from (weight.data_type for weight in graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from types_inside(attribute.g)
            elif attribute.HasField("t"):
                yield attribute.t.data_type
            elif attribute.name == "to":
                yield attribute.i


def answers(graph: onnx.ModelProto, given: np.ndarray) -> list[np.ndarray]:
    session = open_graph(graph)
    return session.run(None, {session.get_inputs()[0].name: given})


@pytest.mark.parametrize("wrap", [None, "loop", "scan"])
@pytest.mark.parametrize("name", GRAPHS)
def test_the_form_answers_as_the_graph(name: str, wrap: str | None) -> None:
    plain = parsed(GRAPHS[name])
    wrapped = {
        None: lambda: plain,
        "loop": lambda: wrap_in_loop(plain, 2),
        "scan": lambda: wrap_in_row_scan(plain),
    }
    graph = wrapped[wrap]()
    before = graph.SerializeToString()
    form = tensorrt_form(graph)
    assert graph.SerializeToString() == before
    assert not {node.op_type for node in form.graph.node} & {"Loop", "Scan"}
    given = np.random.default_rng(0).integers(0, 256, (5, 4), np.uint8)
    [expected], [found] = answers(graph, given), answers(form, given)
    assert found.dtype == expected.dtype == np.uint8
    assert np.array_equal(found, expected)
    casts = [n for n in form.graph.node if n.name.endswith("_at_the_border")]
    borders = {name for node in casts for name in (*node.input, *node.output)}
    assert {"x", "y"} <= borders
    last = [n for n in casts if n.output[0] == "y"]
    form.graph.node.remove(last[0])
    assert TensorProto.UINT8 not in set(types_inside(form.graph))


def test_camera_values_become_int32() -> None:
    form = tensorrt_form(parsed("(uint16[H,4] x) => (float[H,4] y) { y = Cast<to = 1>(x) }"))
    assert form.graph.input[0].type.tensor_type.elem_type == TensorProto.INT32


def test_a_loop_that_does_not_cut_all_inputs_stays() -> None:
    text = "(float[B,4] x, float[4] offset) => (float[B,4] y) { y = Add(x, offset) }"
    form = tensorrt_form(wrap_in_loop(parsed(text), 2, ["x"]))
    assert "Loop" in {node.op_type for node in form.graph.node}


def general() -> torch.nn.Module:
    return YoloNetwork(load_network(GENERAL)[0])


def sam() -> torch.nn.Module:
    torch.manual_seed(0)
    return ImageEncoder(build_sam(TINY))


def frame(side: int) -> np.ndarray:
    return render_frame(RenderSettings(height=side, width=side, cells=12), 0)[0]


Case = tuple[str, Callable[..., torch.nn.Module], tuple[int, ...], float]
NETWORKS: dict[str, Case] = {
    # Step, module, dims of a row, and what float16 may move its answer by.
    "yolo": ("yolo_targets", lambda _: general(), (3, 640, 640), 0.01),
    "sam": ("sam_encoder", lambda _: sam(), (4, 512, 512), 0.02),
    "tiles": ("nuclei_network", lambda unet: TileNetwork(unet(frame(256))), (3, 256, 256), 4),
    "frames": (
        "glioma_network",
        lambda unet: WholeFrameNetwork(unet(frame(256))),
        (3, 97, 130),
        4,
    ),
    "resized frames": (
        "glioma_network",
        lambda unet: WholeFrameNetwork(unet(frame(256)), (200, 160)),
        (3, 97, 130),
        4,
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_form_of_a_network_and_float16(name: str, make_random_unet: Any) -> None:
    step, make, dims, budget = NETWORKS[name]
    module = make(make_random_unet).eval()
    random = np.random.default_rng(0)
    given = random.integers(0, 256, (1, *dims), np.uint8)
    graph = trace_graph(module, STEPS[step], (torch.from_numpy(given),))
    form = tensorrt_form(wrap_in_row_scan(graph))
    expected, found = answers(graph, given), answers(form, given)
    assert all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))

    kept = [node for node in decoding_nodes(form) if "/attn/" not in node]
    half = half_precision(form, kept)
    weights = [w for w in half.graph.initializer if w.data_type == TensorProto.FLOAT16]
    assert weights
    assert half.ByteSize() < 0.65 * form.ByteSize()
    for exact, halved in zip(expected, answers(half, given), strict=True):
        assert 0 < half_deviation(exact, halved) <= budget
    assert half_precision(half) is half


def test_boxes_stay_in_float32_from_their_distances_on() -> None:
    """Rounded to float16 on the way, a box of a 640 px tile moves by a quarter of a pixel."""
    given = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, 640, 640), np.uint8))
    form = tensorrt_form(trace_graph(general(), STEPS["yolo_targets"], (given,)))
    kept = [node for node in decoding_nodes(form) if "/attn/" not in node]
    exact = answers(form, given.numpy())[0][:, :4]
    moved = [
        np.abs(answers(half_precision(form, nodes), given.numpy())[0][:, :4] - exact).mean()
        for nodes in (kept, ())
    ]
    assert moved[0] < 0.6 * moved[1]
