"""A graph that takes any number of rows in chunks of one size, or one by one."""

from __future__ import annotations

from typing import Any

import onnx
from onnx import helper
from onnx.helper import make_node, make_tensor, make_tensor_value_info

from export.graphs.unchunked import renamed

INDEX = onnx.TensorProto.INT64


def in_fixed_chunks(network: onnx.ModelProto, rows: int) -> onnx.ModelProto:
    """Wrap a graph in an ONNX Scan over chunks of ``rows`` rows.

    The body of the loop of `export.graphs.chunked` reads a tensor from outside, which the OpenVINO
    provider of ONNX Runtime 1.24 cannot ("node not found in graph cache"). A Scan hands the chunk
    to its body, and the provider then computes the whole body. The chunks are of one size, so rows
    of zeros fill the last one, whose results are dropped: fewer than ``rows`` are computed in vain.

    Args:
        network: one input and all outputs ``[B, ...]`` with a dynamic B and other dims fixed; no
            row depends on another.
        rows: rows per chunk.
    """
    [given] = network.graph.input
    results = {result.name: f"chunk_of_{result.name}" for result in network.graph.output}
    inside = {given.name: "chunk", **results}
    body = helper.make_graph(
        [renamed(node, inside) for node in network.graph.node],
        "chunk",
        [_value("chunk", given, rows)],
        [_value(results[result.name], result, rows) for result in network.graph.output],
        network.graph.initializer,
    )
    scanned = [f"chunks_of_{result.name}" for result in network.graph.output]
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
        make_node("Scan", ["chunks"], scanned, body=body, num_scan_inputs=1),
    ]
    for result, chunks in zip(network.graph.output, scanned, strict=True):
        dims, padded = f"row_dims_of_{result.name}", f"padded_{result.name}"
        nodes.append(make_node("Reshape", [chunks, dims], [padded]))
        nodes.append(make_node("Slice", [padded, "zero", "row_count", "zero"], [result.name]))
    numbers: dict[str, list[Any]] = {
        "chunk_rows": [rows],
        "rows_minus_1": [rows - 1],
        "one": [1],
        "none_before": [0] * (1 + unpadded),
        "none_behind": [0] * unpadded,
        "chunk_dims": [-1, rows, *_dims(given)],
        "zero": [0],
        **{f"row_dims_of_{r.name}": [-1, *_dims(r)] for r in network.graph.output},
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


def one_by_one(network: onnx.ModelProto) -> onnx.ModelProto:
    """Wrap a graph in an ONNX Scan over single rows: memory is that of one row and the results.

    Unlike the loop of `export.graphs.chunked`, a Scan writes every row's results where they stay,
    which matters where they are large: megabytes per tile of a YOLO. There is one row at least.

    Args:
        network: one input and all outputs ``[B, ...]`` with a dynamic B; no row depends on another.
    """
    [given] = network.graph.input
    results = {result.name: f"row_of_{result.name}" for result in network.graph.output}
    body = helper.make_graph(
        [renamed(node, {given.name: "row", **results}) for node in network.graph.node],
        "row",
        [_value("row", given, 1)],
        [_value(results[result.name], result, 1) for result in network.graph.output],
        network.graph.initializer,
    )
    stacked = {result.name: f"rows_of_{result.name}" for result in network.graph.output}
    nodes = [
        make_node("Unsqueeze", [given.name, "second"], ["rows"]),
        make_node("Scan", ["rows"], [*stacked.values()], body=body, num_scan_inputs=1),
        *(make_node("Squeeze", [rows, "second"], [name]) for name, rows in stacked.items()),
    ]
    graph = helper.make_graph(
        nodes,
        network.graph.name,
        network.graph.input,
        network.graph.output,
        [make_tensor("second", INDEX, [1], [1])],
    )
    wrapped = helper.make_model(
        graph, opset_imports=network.opset_import, ir_version=network.ir_version
    )
    onnx.checker.check_model(wrapped, full_check=True)
    return wrapped


def _dims(value: onnx.ValueInfoProto) -> list[int | str | None]:
    """Dims behind the rows: sizes, or the names of those that are left open."""
    dims = value.type.tensor_type.shape.dim[1:]
    return [dim.dim_value or dim.dim_param or None for dim in dims]


def _value(name: str, like: onnx.ValueInfoProto, rows: int) -> onnx.ValueInfoProto:
    return make_tensor_value_info(name, like.type.tensor_type.elem_type, [rows, *_dims(like)])
