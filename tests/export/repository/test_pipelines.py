"""The graphs of a pipeline as one: wired as the ensemble wires its models, and the same numbers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from cytoserve.contract import INSTANCE_OUTPUTS, PIPELINES, STEPS, Step, Tensor
from export.graphs.files import open_graph
from export.graphs.micro_batches import wrap_in_loop
from export.parity.chain import Chain, newest_graph
from export.parity.steps import ParityError
from export.repository.pipelines import export_merged, merge_graphs

WHOLE = Step(
    "whole",
    (Tensor("x", "FP32", (-1, 2)), Tensor("shift", "FP32", (1,))),
    (Tensor("sum", "FP32", (-1,)), Tensor("all", "FP32", (-1, 2))),
)


def graph(text: str, opset: int = 17) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> {text}')


DOUBLE = """g (float[n,2] x, float[1] shift) => (float[m,2] y)
          { z = Concat<axis = 0>(x, x)  y = Add(z, shift) }"""
ADD_UP = """g (float[n,2] y) => (float[n] s) <int64[1] axis = {1}>
          { s = ReduceSum<keepdims = 0>(y, axis) }"""


def step(name: str, inputs: dict[str, str], outputs: dict[str, str]) -> Any:
    return SimpleNamespace(model_name=name, input_map=inputs, output_map=outputs)


WIRING = (
    step("double", {"x": "x", "shift": "shift"}, {"y": "all"}),
    step("add_up", {"y": "all"}, {"s": "sum"}),
    step("painted", {"y": "all"}, {"labels": "labels"}),
)
ROWS = np.arange(12, dtype=np.float32).reshape(-1, 2)


@pytest.mark.parametrize("rows", [0, 1, 6])
@pytest.mark.parametrize("chunk", [None, 2], ids=["plain", "in chunks"])
def test_steps_are_joined_as_they_are_wired(rows: int, chunk: int | None) -> None:
    """Both graphs call a size `n` and a tensor `y`, and mean different ones."""
    second = graph(ADD_UP) if chunk is None else wrap_in_loop(graph(ADD_UP), chunk)
    whole = merge_graphs(WHOLE, WIRING, {"double": graph(DOUBLE), "add_up": second})
    assert [value.name for value in whole.graph.input] == ["x", "shift"]
    given = {"x": ROWS[:rows], "shift": np.array([3], np.float32)}
    total, joined = open_graph(whole).run(["sum", "all"], given)
    np.testing.assert_array_equal(joined, np.concatenate([ROWS[:rows]] * 2) + 3)
    np.testing.assert_array_equal(total, joined.sum(axis=1))


def test_sizes_in_the_bodies_of_loops_have_no_names_left() -> None:
    whole = merge_graphs(
        WHOLE, WIRING, {"double": graph(DOUBLE), "add_up": wrap_in_loop(graph(ADD_UP), 2)}
    )
    bodies = [a.g for node in whole.graph.node for a in node.attribute if a.HasField("g")]
    assert bodies
    named = [
        dim.dim_param
        for body in bodies
        for value in (*body.input, *body.output, *body.value_info)
        for dim in value.type.tensor_type.shape.dim
    ]
    assert not any(named)


def test_operators_of_two_versions_are_refused() -> None:
    graphs = {"double": graph(DOUBLE), "add_up": graph(ADD_UP, opset=13)}
    with pytest.raises(ValueError, match="one version of the operators"):
        merge_graphs(WHOLE, WIRING, graphs)


@pytest.mark.parametrize("name", ["yolo", "yolo_resnet"])
def test_a_graph_of_other_steps_is_not_installed(
    exported_repository: Path, frames: dict[str, np.ndarray], name: str
) -> None:
    pipeline = PIPELINES[name]
    assert pipeline.merged_step is not None
    files = {each: newest_graph(exported_repository / each) for each in pipeline.steps}
    graphs = {each: onnx.load(file) for each, file in files.items() if file is not None}
    frame = next(iter(frames.values()))  # in which the random networks find cells
    chain = Chain(exported_repository, name)
    arguments = (STEPS[pipeline.merged_step], chain, graphs, {"frame": frame})
    assert all(set(case.values()) == {0.0} for case in export_merged(*arguments).parity.values())

    [scores] = [n for n in graphs["yolo_decode"].graph.node if "scores" in n.output]
    scores.output[0] = "before"
    graphs["yolo_decode"].graph.node.append(onnx.helper.make_node("Sqrt", ["before"], ["scores"]))
    with pytest.raises(ParityError, match=rf"{pipeline.merged_step}, frame frame .*'scores'"):
        export_merged(*arguments)


def test_a_merged_step_answers_all_that_its_pipeline_does() -> None:
    for pipeline in PIPELINES.values():
        if pipeline.merged_step:
            assert set(INSTANCE_OUTPUTS) <= set(STEPS[pipeline.merged_step].outputs)
            assert STEPS[pipeline.merged_step].inputs == pipeline.inputs
