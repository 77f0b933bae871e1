"""The network inside a graph that takes its rows in chunks or one by one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx
from onnx import helper


def without_chunks(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Take the network out of its Loop or Scan; a graph without one is returned as it is.

    It takes all of its rows at once again, and its memory grows with them.

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
    # Each trip appends a chunk's results to those before: what it appends, by the loop's output.
    appended = {node.output[0]: node.input[1] for node in body.node if node.op_type == "Concat"}
    results = {
        appended[so_far.name]: result.name
        for so_far, result in zip(body.output[1:], graph.graph.output, strict=True)
    }
    nodes = _needed(body, {node.output[0] for node in cuts}, set(results))
    reads = {name for node in nodes for name in node.input}
    weights = [weight for weight in body.initializer if weight.name in reads]
    return _network(graph, [renamed(node, {**whole, **results}) for node in nodes], weights)


def _out_of_scan(graph: onnx.ModelProto, body: onnx.GraphProto) -> onnx.ModelProto:
    """The network of a Scan, whose body is the network itself under other names."""
    pairs = (
        *zip(body.input, graph.graph.input, strict=True),
        *zip(body.output, graph.graph.output, strict=True),
    )
    names = {inside.name: outside.name for inside, outside in pairs}
    return _network(graph, [renamed(node, names) for node in body.node], body.initializer)


def _network(
    graph: onnx.ModelProto, nodes: Iterable[onnx.NodeProto], weights: Iterable[onnx.TensorProto]
) -> onnx.ModelProto:
    """A model of the inputs and outputs of ``graph``."""
    network = helper.make_graph(
        nodes, graph.graph.name, graph.graph.input, graph.graph.output, weights
    )
    model = helper.make_model(
        network, opset_imports=graph.opset_import, ir_version=graph.ir_version
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _needed(body: onnx.GraphProto, given: set[str], wanted: set[str]) -> list[onnx.NodeProto]:
    """The nodes that ``wanted`` are computed by, from ``given`` on, in their order."""
    nodes: list[onnx.NodeProto] = []
    for node in reversed(body.node):
        if wanted & set(node.output) and not given & set(node.output):
            wanted = wanted | set(node.input)
            nodes.insert(0, node)
    return nodes


def renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    """Copy a node that has no graph in it, under other names of what it reads and makes."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = [names.get(name, name) for name in node.input]
    copy.output[:] = [names.get(name, name) for name in node.output]
    return copy
