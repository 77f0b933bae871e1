"""Graphs of variants: the same network in another wrapping, beside the one it is made of."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from click.testing import CliRunner

from cytoserve.model_config import MANIFEST_FILE
from export.__main__ import main
from export.graphs.files import open_graph
from export.graphs.micro_batches import unwrap_loop, wrap_in_loop, wrap_in_scan
from export.lint import lint_repository

ROWS = 3
NETWORK = """<ir_version: 8, opset_import: ["": 17]>
network (uint8[B,2,2] x) => (float[B,2] y) <float[4,2] w = {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8}>
{
  as_float = Cast<to = 1>(x)
  flat = Flatten(as_float)
  y = MatMul(flat, w)
}"""


@pytest.fixture
def network() -> onnx.ModelProto:
    return onnx.parser.parse_model(NETWORK)


def answers(graph: onnx.ModelProto, rows: int) -> np.ndarray:
    given = np.random.default_rng(rows).integers(0, 256, (rows, 2, 2), np.uint8)
    return open_graph(graph).run(["y"], {"x": given})[0]


@pytest.mark.parametrize("rows", [0, 1, ROWS, ROWS + 1, 3 * ROWS])
def test_any_number_of_rows_in_chunks_of_one_size(network: onnx.ModelProto, rows: int) -> None:
    found = answers(wrap_in_scan(network, ROWS), rows)
    assert found.shape == (rows, 2)
    assert np.array_equal(found, answers(network, rows))


def test_a_scan_gives_its_body_all_that_it_reads(network: onnx.ModelProto) -> None:
    """The OpenVINO provider computes no body that reads a tensor from outside."""
    graph = wrap_in_scan(network, ROWS).graph
    [scan] = [node for node in graph.node if node.op_type == "Scan"]
    body = onnx.helper.get_attribute_value(scan.attribute[0])
    known = {value.name for value in (*body.input, *body.initializer)}
    for node in body.node:
        assert set(node.input) <= known
        known.update(node.output)
    assert body.input[0].type.tensor_type.shape.dim[0].dim_value == ROWS


def test_a_network_comes_out_of_its_loop_as_it_went_in(network: onnx.ModelProto) -> None:
    found = unwrap_loop(wrap_in_loop(network, ROWS))
    assert [node.op_type for node in found.graph.node] == ["Cast", "Flatten", "MatMul"]
    assert found.graph.input == network.graph.input
    assert found.graph.output == network.graph.output
    assert np.array_equal(answers(found, 7), answers(network, 7))
    assert unwrap_loop(network) is network


def test_a_loop_that_cuts_some_inputs_only_is_refused() -> None:
    network = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]>
        network (float[B,4] x, float[4] offset) => (float[B,4] y) { y = Add(x, offset) }"""
    )
    with pytest.raises(ValueError, match="cuts all inputs, offset, x; this one cuts x"):
        unwrap_loop(wrap_in_loop(network, ROWS, ["x"]))


@pytest.mark.slow
def test_the_command_adds_graphs_to_what_is_exported(repository: Path) -> None:
    done = CliRunner().invoke(main, ["openvino", "--model-repository", str(repository)])
    assert done.exit_code == 0, done.output
    files = [Path(line) for line in done.stdout.splitlines()]
    assert [file.parent.parent.name for file in files] == ["resnet50_cells", "nuclei_network"]
    manifest = json.loads((files[0].parent / MANIFEST_FILE).read_text())
    assert set(manifest["sha256"]) == {"model.onnx", "model.openvino.onnx"}
    assert max(manifest["variants"]["model.openvino.onnx"]["parity"].values()) <= 1e-6
    assert lint_repository(repository) == []


def test_the_command_needs_something_exported(source_repository: Path) -> None:
    done = CliRunner().invoke(main, ["openvino", "--model-repository", str(source_repository)])
    assert done.exit_code == 1
    assert "none of resnet50_cells, nuclei_network is exported" in done.output
