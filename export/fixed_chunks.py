"""A graph that takes any number of rows in chunks of one size, for OpenVINO."""

from __future__ import annotations

import onnx
from onnx import helper
from onnx.helper import make_node, make_tensor, make_tensor_value_info

from export.unchunked import renamed

INDEX = onnx.TensorProto.INT64


def in_fixed_chunks(network: onnx.ModelProto, rows: int) -> onnx.ModelProto:
    """Wrap a graph in an ONNX Scan over chunks of ``rows`` rows.

    The body of the loop of `export.chunked` reads a tensor from outside, which the OpenVINO
    provider of ONNX Runtime 1.24 cannot ("node not found in graph cache"). A Scan hands the chunk
    to its body, and the provider then computes the whole body. The chunks are of one size, so rows
    of zeros fill the last one, whose results are dropped: fewer than ``rows`` are computed in vain.

    Args:
        network: one input and one output ``[B, ...]`` with a dynamic B and other dims fixed; no
            row depends on another.
        rows: rows per chunk.
    """
    (given,), (result,) = network.graph.input, network.graph.output
    inside = {given.name: "chunk", result.name: "chunk_result"}
    body = helper.make_graph(
        [renamed(node, inside) for node in network.graph.node],
        "chunk",
        [_value("chunk", given, rows)],
        [_value("chunk_result", result, rows)],
        network.graph.initializer,
    )
    # Pad takes the rows to add before each dim, then those behind each dim.
    unpadded = len(_dims(given))
    nodes = [
        make_node("Shape", [given.name], ["row_count"], start=0, end=1),
        make_node("Add", ["row_count", "rows_minus_1"], ["rounded_up"]),
        make_node("Div", ["rounded_up", "chunk_rows"], ["chunk_count"]),
        make_node("Max", ["chunk_count", "one"], ["scan_count"]),  # a Scan takes no empty list
        make_node("Mul", ["scan_count", "chunk_rows"], ["padded_count"]),
        make_node("Sub", ["padded_count", "row_count"], ["missing_rows"]),
        make_node("Concat", ["none_before", "missing_rows", "none_behind"], ["padding"], axis=0),
        make_node("Pad", [given.name, "padding"], ["padded"]),
        make_node("Reshape", ["padded", "chunk_dims"], ["chunks"]),
        make_node("Scan", ["chunks"], ["chunk_results"], body=body, num_scan_inputs=1),
        make_node("Reshape", ["chunk_results", "row_dims"], ["padded_results"]),
        make_node("Slice", ["padded_results", "zero", "row_count", "zero"], [result.name]),
    ]
    numbers = {
        "chunk_rows": [rows],
        "rows_minus_1": [rows - 1],
        "one": [1],
        "none_before": [0] * (1 + unpadded),
        "none_behind": [0] * unpadded,
        "chunk_dims": [-1, rows, *_dims(given)],
        "row_dims": [-1, *_dims(result)],
        "zero": [0],
    }
    graph = helper.make_graph(
        nodes,
        network.graph.name,
        network.graph.input,
        network.graph.output,
        [make_tensor(name, INDEX, [len(value)], value) for name, value in numbers.items()],
    )
    wrapped = helper.make_model(
        graph, opset_imports=network.opset_import, ir_version=network.ir_version
    )
    onnx.checker.check_model(wrapped, full_check=True)
    return wrapped


def _dims(value: onnx.ValueInfoProto) -> list[int]:
    """Dims behind the rows."""
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim[1:]]


def _value(name: str, like: onnx.ValueInfoProto, rows: int) -> onnx.ValueInfoProto:
    return make_tensor_value_info(name, like.type.tensor_type.elem_type, [rows, *_dims(like)])
