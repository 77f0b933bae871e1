"""Graphs that take any number of rows in bounded memory, by looping over a few rows at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import onnx
from onnx import helper
from onnx.helper import make_node, make_tensor, make_tensor_value_info

INDEX = onnx.TensorProto.INT64


def wrap_in_loop(
    network: onnx.ModelProto, rows: int, chunked: Collection[str] | None = None
) -> onnx.ModelProto:
    """Wrap a graph in an ONNX Loop over chunks of at most ``rows`` rows.

    ResNet50 holds about 0.5 MB of activations per crop: 4,000 crops at once would take 2 GB, and a
    U-Net's tile takes a hundred times as much. In chunks, the memory is that of one chunk, no row
    is padded, and zero rows are an ordinary answer. On a CPU, the extra cost ranged from within
    noise to 6 % of the plain graph's time. Whatever depends on none of the chunked inputs is
    computed once, before the loop.

    Args:
        network: graph whose outputs are all ``[B, ...]`` of any dtype, where B is the number of
            rows of the first chunked input and the other dims are fixed.
        rows: rows per chunk.
        chunked: names of the inputs ``[B, ...]`` with a dynamic leading dim that are cut into
            chunks; None: all. An input without rows reaches every chunk without rows. All other
            inputs reach every chunk whole.
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
    """Split into nodes of the loop's body, nodes before the loop, and names that the latter use.

    The names are those that the nodes before the loop need or make. Constants go into the body,
    where ONNX Runtime's fusions find them, unless nodes before the loop need them too.
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
    """Names that a node reads, including those that its subgraphs read."""
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
    """Element type and dims of an array that holds ``rows`` rows of the result."""
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
    """One iteration: the network on rows ``[i * rows, (i + 1) * rows)``, appended to the others."""
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


def _renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    """A copy of a node with other names for what it reads and makes, subgraphs included."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = [names.get(name, name) for name in node.input]
    copy.output[:] = [names.get(name, name) for name in node.output]
    for graph in _graphs_in(copy):
        renamed = [_renamed(inner, names) for inner in graph.node]
        del graph.node[:]
        graph.node.extend(renamed)
    return copy


def unwrap_loop(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Take the network out of its Loop or Scan; a graph without either is returned as it is.

    The network then takes all of its rows at once again, and its memory grows with them.

    Raises:
        ValueError: the loop does not cut every input into chunks; that of SAM's decoder does not.
    """
    loops = [node for node in graph.graph.node if node.op_type == "Loop"]
    scans = [node for node in graph.graph.node if node.op_type == "Scan"]
    if scans:
        return _out_of_scan(graph, helper.get_attribute_value(scans[0].attribute[0]))
    if not loops:
        return graph
    body = helper.get_attribute_value(loops[0].attribute[0])
    inputs = {value.name for value in graph.graph.input}
    cuts = [node for node in body.node if node.op_type == "Slice" and node.input[0] in inputs]
    whole = {node.output[0]: node.input[0] for node in cuts}
    if set(whole.values()) != inputs:
        raise ValueError(
            f"a network is taken out of a loop that cuts all inputs, {', '.join(sorted(inputs))}; "
            f"this one cuts {', '.join(sorted(whole.values())) or 'none'}."
        )
    # Each iteration appends a chunk's results to earlier ones. This maps the loop's output to what
    # is appended.
    appended = {node.output[0]: node.input[1] for node in body.node if node.op_type == "Concat"}
    results = {
        appended[so_far.name]: result.name
        for so_far, result in zip(body.output[1:], graph.graph.output, strict=True)
    }
    nodes = _needed(body, {node.output[0] for node in cuts}, set(results))
    reads = {name for node in nodes for name in node.input}
    weights = [weight for weight in body.initializer if weight.name in reads]
    return _network(graph, [_renamed(node, {**whole, **results}) for node in nodes], weights)


def _out_of_scan(graph: onnx.ModelProto, body: onnx.GraphProto) -> onnx.ModelProto:
    """The network of a Scan, whose body is the network itself under other names."""
    pairs = (
        *zip(body.input, graph.graph.input, strict=True),
        *zip(body.output, graph.graph.output, strict=True),
    )
    names = {inside.name: outside.name for inside, outside in pairs}
    return _network(graph, [_renamed(node, names) for node in body.node], body.initializer)


def _network(
    graph: onnx.ModelProto, nodes: Iterable[onnx.NodeProto], weights: Iterable[onnx.TensorProto]
) -> onnx.ModelProto:
    """A model with the inputs and outputs of ``graph``, made of ``nodes`` and ``weights``."""
    network = helper.make_graph(
        nodes, graph.graph.name, graph.graph.input, graph.graph.output, weights
    )
    model = helper.make_model(
        network, opset_imports=graph.opset_import, ir_version=graph.ir_version
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _needed(body: onnx.GraphProto, given: set[str], wanted: set[str]) -> list[onnx.NodeProto]:
    """The nodes that compute ``wanted`` from ``given``, in their original order."""
    nodes: list[onnx.NodeProto] = []
    for node in reversed(body.node):
        if wanted & set(node.output) and not given & set(node.output):
            wanted = wanted | set(node.input)
            nodes.insert(0, node)
    return nodes


def wrap_in_scan(network: onnx.ModelProto, rows: int) -> onnx.ModelProto:
    """Wrap a graph in an ONNX Scan over chunks of ``rows`` rows.

    The body of :func:`wrap_in_loop` reads a tensor from outside, which the OpenVINO provider of
    ONNX Runtime 1.24 cannot do ("node not found in graph cache"). A Scan passes the chunk to its
    body, and the provider then computes the whole body. All chunks have one size, so rows of zeros
    fill the last one and their results are dropped: fewer than ``rows`` rows are computed in vain.

    Args:
        network: graph with one input and outputs ``[B, ...]``; B is dynamic, the other dims are
            fixed, and no row depends on another.
        rows: rows per chunk.
    """
    [given] = network.graph.input
    results = {result.name: f"chunk_of_{result.name}" for result in network.graph.output}
    inside = {given.name: "chunk", **results}
    body = helper.make_graph(
        [_renamed(node, inside) for node in network.graph.node],
        "chunk",
        [_value("chunk", given, rows)],
        [_value(results[result.name], result, rows) for result in network.graph.output],
        network.graph.initializer,
    )
    scanned = [f"chunks_of_{result.name}" for result in network.graph.output]
    # Pad takes the padding before every dim, then the padding after every dim.
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


def wrap_in_row_scan(network: onnx.ModelProto) -> onnx.ModelProto:
    """Wrap a graph in an ONNX Scan over single rows, in the memory of one row plus the results.

    Unlike the loop of :func:`wrap_in_loop`, a Scan writes every row's results to their final place,
    which matters for large results, such as megabytes per tile of a YOLO. At least one row is
    needed.

    Args:
        network: graph with one input and outputs ``[B, ...]``; B is dynamic, and no row depends on
            another.
    """
    [given] = network.graph.input
    results = {result.name: f"row_of_{result.name}" for result in network.graph.output}
    body = helper.make_graph(
        [_renamed(node, {given.name: "row", **results}) for node in network.graph.node],
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
    """Dims after the first: sizes, or the names of those that are left open."""
    dims = value.type.tensor_type.shape.dim[1:]
    return [dim.dim_value or dim.dim_param or None for dim in dims]


def _value(name: str, like: onnx.ValueInfoProto, rows: int) -> onnx.ValueInfoProto:
    return make_tensor_value_info(name, like.type.tensor_type.elem_type, [rows, *_dims(like)])
