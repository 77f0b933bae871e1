"""A graph that takes any number of rows in bounded memory."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import onnx
from onnx import helper
from onnx.helper import make_node, make_tensor, make_tensor_value_info

INDEX = onnx.TensorProto.INT64


def in_chunks(
    network: onnx.ModelProto, rows: int, chunked: Collection[str] | None = None
) -> onnx.ModelProto:
    """Wrap a graph in an ONNX Loop over chunks of at most ``rows`` rows.

    ResNet50 holds about 0.5 MB of activations a crop; 4,000 crops at once would take 2 GB, and a
    U-Net's tile takes a hundred times as much. In chunks the memory is that of one chunk, no row
    is padded, and zero rows are an ordinary answer. The cost was within noise to 6 % of the plain
    graph's on a CPU. What depends on none of the chunked inputs is computed once, before the loop.

    Args:
        network: every output is ``[B, ...]`` of any dtype, B the rows of the first chunked input,
            and its other dims are fixed.
        rows: rows per chunk.
        chunked: inputs ``[B, ...]`` with a dynamic leading dim that are cut into chunks; one of no
            rows reaches every chunk with none. The others reach every chunk whole. None: all.
    """
    names = [value.name for value in network.graph.input]
    cut = [name for name in names if chunked is None or name in chunked]
    inside, outside, shared = _split(network.graph, set(cut), set(names))
    results = list(network.graph.output)
    body = _loop_body(inside, network.graph, cut, shared, results, rows)
    empty = [f"no_rows_of_{result.name}" for result in results]
    graph = helper.make_graph(
        [
            *outside,
            make_node("Shape", [cut[0]], ["row_count"], start=0, end=1),
            make_node("Add", ["row_count", "rows_minus_1"], ["rounded_up"]),
            make_node("Div", ["rounded_up", "rows_per_chunk"], ["chunk_count"]),
            make_node("Squeeze", ["chunk_count"], ["trips"]),
            make_node("Loop", ["trips", "", *empty], [r.name for r in results], body=body),
        ],
        network.graph.name,
        network.graph.input,
        results,
        [
            *(weight for weight in network.graph.initializer if weight.name in shared),
            make_tensor("rows_minus_1", INDEX, [1], [rows - 1]),
            make_tensor("rows_per_chunk", INDEX, [1], [rows]),
            *(
                make_tensor(name, *_rows_type(result, 0), [])
                for name, result in zip(empty, results, strict=True)
            ),
        ],
    )
    wrapped = helper.make_model(
        graph, opset_imports=network.opset_import, ir_version=network.ir_version
    )
    onnx.checker.check_model(wrapped, full_check=True)
    return wrapped


def _split(
    graph: onnx.GraphProto, cut: set[str], inputs: set[str]
) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto], set[str]]:
    """Nodes for the loop's body, nodes before the loop, and the names that these need or make.

    Constants stand in the body, where ONNX Runtime's fusions find them, unless what is computed
    before the loop needs them too.
    """
    varying, fixed = set(cut), inputs - cut
    for node in graph.node:
        read = set(_reads(node))
        if read & varying:
            varying.update(node.output)
        elif read & fixed:
            fixed.update(node.output)
    shared = set(fixed)
    outside: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if shared & set(node.output):
            shared.update(_reads(node))
            outside.insert(0, node)
    inside = [node for node in graph.node if not shared & set(node.output)]
    return inside, outside, shared


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node or the graphs in it read."""
    yield from node.input
    for graph in _graphs_in(node):
        for inner in graph.node:
            yield from _reads(inner)
        yield from (value.name for value in graph.output)


def _graphs_in(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g


def _rows_type(result: onnx.ValueInfoProto, rows: int | str) -> tuple[int, list[int | str]]:
    """Element type and dims of an array of ``rows`` rows of the result."""
    declared = result.type.tensor_type
    return declared.elem_type, [rows, *(dim.dim_value for dim in declared.shape.dim[1:])]


def _loop_body(
    nodes: Iterable[onnx.NodeProto],
    network: onnx.GraphProto,
    cut: Collection[str],
    shared: Collection[str],
    results: Collection[onnx.ValueInfoProto],
    rows: int,
) -> onnx.GraphProto:
    """One trip: the network on rows ``[i * rows, (i + 1) * rows)``, appended to those before."""
    chunk = {name: f"chunk_of_{name}" for name in cut}
    body = [
        make_node("Unsqueeze", ["trip", "leading"], ["trip_vector"]),
        make_node("Mul", ["trip_vector", "chunk_rows"], ["chunk_start"]),
        make_node("Add", ["chunk_start", "chunk_rows"], ["chunk_end"]),
    ]
    body += [
        make_node("Slice", [name, "chunk_start", "chunk_end", "leading"], [chunk[name]])
        for name in cut
    ]
    body += [_renamed(node, chunk) for node in nodes]
    before = {result.name: f"{result.name}_before" for result in results}
    so_far = {result.name: f"{result.name}_so_far" for result in results}
    body += [make_node("Concat", [before[name], name], [so_far[name]], axis=0) for name in before]
    body.append(make_node("Identity", ["unfinished"], ["go_on"]))
    return helper.make_graph(
        body,
        "chunk",
        [
            make_tensor_value_info("trip", INDEX, []),
            make_tensor_value_info("unfinished", onnx.TensorProto.BOOL, []),
            *(make_tensor_value_info(before[r.name], *_rows_type(r, "rows")) for r in results),
        ],
        [
            make_tensor_value_info("go_on", onnx.TensorProto.BOOL, []),
            *(make_tensor_value_info(so_far[r.name], *_rows_type(r, "rows")) for r in results),
        ],
        [
            *(weight for weight in network.initializer if weight.name not in shared),
            make_tensor("chunk_rows", INDEX, [1], [rows]),
            make_tensor("leading", INDEX, [1], [0]),
        ],
    )


def _renamed(node: onnx.NodeProto, names: dict[str, str]) -> onnx.NodeProto:
    """A copy that reads other names, in the graphs in it as well."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = [names.get(name, name) for name in node.input]
    for graph in _graphs_in(copy):
        renamed = [_renamed(inner, names) for inner in graph.node]
        del graph.node[:]
        graph.node.extend(renamed)
    return copy
