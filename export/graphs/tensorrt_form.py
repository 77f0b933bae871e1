"""Graphs in the form that TensorRT takes: 8-bit numbers at inputs and outputs only, and no loops.

TensorRT knows UINT8 at the border of a network only, where it converts it from and to float, and
UINT16 not at all (onnx-tensorrt, operators.md). The form of a graph holds all values between in
float32, which represents them exactly. It also takes all rows at once, because TensorRT's parser
refuses the loops of `export.graphs.micro_batches`: its planner bounds the memory by itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when the library is loaded

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

from export.graphs.micro_batches import unwrap_loop

BORDER_TYPES = {TensorProto.UINT8: TensorProto.UINT8, TensorProto.UINT16: TensorProto.INT32}
"""Element type that TensorRT lacks inside a network -> the one that it takes at the border.

No step with a UINT16 tensor is served by TensorRT, since Triton's types must equal the contract's.
Its form only shows whether TensorRT could compute it."""

INSIDE = {TensorProto.UINT8: TensorProto.FLOAT, TensorProto.UINT16: TensorProto.INT32}
"""Element type that TensorRT lacks inside a network -> the one that replaces it there."""

FLOAT32_OPERATORS = (*DEFAULT_OP_BLOCK_LIST, "LayerNormalization", "Clip")
"""Operators that stay in float32 in a graph of float16.

Besides those that ONNX Runtime's converter leaves out by itself, these are the normalisation of
transformers, whose squares exceed the range of float16, and what limits positions in pixels where a
frame is resized: rounded to float16, they moved its pixels visibly."""


def tensorrt_form(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Rewrite a graph to the form that TensorRT takes; ``graph`` is left unchanged.

    The result has inputs and outputs of the same names, shapes and, except for UINT16, dtypes. It
    computes the same numbers, as long as the graph divides no integers and relies on no overflow;
    compare the two before use. A loop that does not cut every input into chunks stays.
    """
    form = onnx.ModelProto()
    form.CopyFrom(all_rows_at_once(graph))
    body = form.graph
    del body.value_info[:]  # types of values between, which change
    inputs = _narrow(body.input)
    outputs = _narrow(body.output)
    replaced = {name: f"{name}_inside" for name in (*inputs, *outputs)}
    _rename(body, replaced)
    _widen(body)
    nodes = [
        *(_cast(name, replaced[name], INSIDE[kind]) for name, kind in inputs.items()),
        *body.node,
        *(_cast(replaced[name], name, BORDER_TYPES[kind]) for name, kind in outputs.items()),
    ]
    del body.node[:]
    body.node.extend(nodes)
    for value in (*body.input, *body.output):
        declared = value.type.tensor_type
        declared.elem_type = BORDER_TYPES.get(declared.elem_type, declared.elem_type)
    onnx.checker.check_model(form, full_check=True)
    return form


def half_precision(form: onnx.ModelProto, kept: Sequence[str] = ()) -> onnx.ModelProto:
    """Convert a graph without loops to float16; inputs and outputs keep their dtypes.

    The weights take half the space. ``form`` is left unchanged; a graph that has weights in float16
    already is returned as it is.

    Args:
        form: the graph.
        kept: names of nodes that stay in float32, besides those of `FLOAT32_OPERATORS`.
    """
    if any(weight.data_type == TensorProto.FLOAT16 for weight in form.graph.initializer):
        return form
    half = onnx.ModelProto()
    half.CopyFrom(form)
    half = convert_float_to_float16(
        half,
        keep_io_types=True,
        op_block_list=list(FLOAT32_OPERATORS),
        node_block_list=list(kept),
    )
    del half.graph.value_info[:]
    _join_kept(half.graph)
    model = OnnxModel(half)
    model.prune_graph()
    model.topological_sort()  # the converter appends its casts
    return half


def _join_kept(graph: onnx.GraphProto) -> None:
    """Let nodes in float32 hand their results on in float32.

    The converter casts the results of every node that stays to float16, and back for the next one,
    which rounds a coordinate of 640 to a quarter of a pixel. It also makes the same cast once more
    for each node that reads a value.
    """
    exact = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type == "Cast" and node.name.endswith("_cast_to_fp16_node")
    }
    once = {}
    for node in graph.node:
        if node.op_type == "Cast" and node.attribute[0].i == TensorProto.FLOAT:
            node.input[0] = exact.get(node.input[0], node.input[0])
        once[node.output[0]] = node
    nodes = list(once.values())
    del graph.node[:]
    graph.node.extend(nodes)


def all_rows_at_once(graph: onnx.ModelProto) -> onnx.ModelProto:
    """A graph without the loop that cuts all of its inputs into chunks, if it has one."""
    try:
        return unwrap_loop(graph)
    except ValueError:
        return graph


def _narrow(values: Iterable[onnx.ValueInfoProto]) -> dict[str, int]:
    """Name -> element type of the inputs or outputs whose type TensorRT lacks inside."""
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return {name: kind for name, kind in types.items() if kind in INSIDE}


def _cast(source: str, target: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"{target}_at_the_border", to=kind)


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Rename what nodes read and make, in subgraphs too; the graph's own inputs keep their names.

    Names are unique in a graph and its subgraphs, as ONNX demands.
    """
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for inner in _subgraphs(node):
            _rename(inner, names)
            for value in inner.output:
                value.name = names.get(value.name, value.name)


def _widen(graph: onnx.GraphProto) -> None:
    """Replace the types that TensorRT lacks in casts, constants and subgraphs."""
    for weight in graph.initializer:
        if weight.data_type in INSIDE:
            weight.CopyFrom(_widened(weight))
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to":
                attribute.i = INSIDE.get(attribute.i, attribute.i)
            elif attribute.type == AttributeProto.TENSOR and attribute.t.data_type in INSIDE:
                attribute.t.CopyFrom(_widened(attribute.t))
        for inner in _subgraphs(node):
            del inner.value_info[:]
            for value in (*inner.input, *inner.output):
                declared = value.type.tensor_type
                declared.elem_type = INSIDE.get(declared.elem_type, declared.elem_type)
            _widen(inner)


def _widened(tensor: onnx.TensorProto) -> onnx.TensorProto:
    values = numpy_helper.to_array(tensor)
    kind = helper.tensor_dtype_to_np_dtype(INSIDE[tensor.data_type])
    return numpy_helper.from_array(np.asarray(values, kind), tensor.name)


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
