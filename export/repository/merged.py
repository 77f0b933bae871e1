"""All graphs of a pipeline as one, for the variant `single-graph`: no step waits for another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import compose, helper

from cytoserve.contract import Step, Tensor
from export.graphs.files import ELEMENT_TYPES, open_graph
from export.parity.chain import Chain
from export.parity.instances import THRESHOLDS, instance_inputs
from export.parity.steps import ParityError, allowed, deviation
from export.repository.exported_step import ExportedStep
from training.checkpoint import LearnedScale

PARITY_MAX_CELLS = 50
"""Maximum number of cells per frame in the comparison.

Each cell costs the classifier's time twice, and thousands would show no more."""


def export_merged(
    step: Step,
    chain: Chain,
    graphs: Mapping[str, onnx.ModelProto],
    frames: Mapping[str, npt.NDArray[np.generic]],
    scale: LearnedScale | None = None,
) -> ExportedStep:
    """Join the graphs of a pipeline's steps and compare both on frames at several thresholds.

    Args:
        step: step of the contract with the inputs and outputs of the joined graph.
        chain: the pipeline, running the same graphs.
        graphs: the steps' graphs by name.
        frames: name -> camera frame ``[H, W]`` or ``[H, W, C]``.
        scale: scale at which the frames are seen; None: one network pixel per frame pixel.

    Raises:
        ParityError: the joined graph deviates from its steps by more than rounding explains.
    """
    graph = merge_graphs(step, chain.steps, graphs)
    session, parity = open_graph(graph), {}
    outputs = [tensor.name for tensor in step.outputs]
    for frame, image in frames.items():
        for threshold in THRESHOLDS:
            inputs = instance_inputs(
                np.atleast_3d(image).astype(np.uint16),
                threshold,
                PARITY_MAX_CELLS,
                scale=1.0 if scale is None else scale.network_scale,
            )
            expected, answers = chain.run(inputs, outputs), session.run(outputs, inputs)
            case = {
                name: deviation(expected[name], answer)
                for name, answer in zip(outputs, answers, strict=True)
            }
            for name, figure in case.items():
                if figure > allowed(expected[name].dtype):
                    raise ParityError(
                        f"{step.name}, frame {frame} at score threshold {threshold}, output "
                        f"'{name}': one graph deviates from its steps by {figure:.3g}; at most "
                        f"{allowed(expected[name].dtype):g} is allowed."
                    )
            parity[f"{frame} at {threshold}"] = case
    return ExportedStep(step.name, graph, parity)


def merge_graphs(
    step: Step, wiring: Sequence[Any], graphs: Mapping[str, onnx.ModelProto]
) -> onnx.ModelProto:
    """Join graphs as an ensemble joins their models.

    Args:
        step: step with the inputs and outputs of the joined graph, named as the ensemble's wires.
        wiring: the steps of the ensemble's configuration, in order.
        graphs: the steps' graphs by name; steps that have none are left out.

    Raises:
        ValueError: the graphs are not all written in one version of ONNX's operators.
    """
    nodes, weights, opsets = [], [], set()
    for each in wiring:
        if each.model_name not in graphs:
            continue
        prefix = f"{each.model_name}/"
        model = compose.add_prefix(graphs[each.model_name], prefix)
        _forget_sizes(model.graph)
        # ONNX Runtime removes these Identity nodes when it opens the graph.
        nodes += [_identity(wire, prefix + own) for own, wire in sorted(each.input_map.items())]
        nodes += model.graph.node
        nodes += [_identity(prefix + own, wire) for own, wire in sorted(each.output_map.items())]
        weights += model.graph.initializer
        opsets.add(tuple((entry.domain, entry.version) for entry in model.opset_import))
    if len(opsets) != 1:
        raise ValueError(
            f"Graphs that are joined must use one version of the operators; given: {opsets}."
        )
    inputs, outputs = (list(_declared(step, side)) for side in (step.inputs, step.outputs))
    merged = helper.make_model(
        helper.make_graph(nodes, step.name, inputs, outputs, weights),
        opset_imports=[helper.make_opsetid(*entry) for entry in opsets.pop()],
        ir_version=max(graph.ir_version for graph in graphs.values()),
    )
    onnx.checker.check_model(merged)
    return merged


def _identity(source: str, target: str) -> onnx.NodeProto:
    return helper.make_node("Identity", [source], [target], name=f"{source} to {target}")


def _declared(step: Step, tensors: Sequence[Tensor]) -> Iterator[onnx.ValueInfoProto]:
    for tensor in tensors:
        dims = enumerate(step.graph_dims(tensor))
        named = [f"{tensor.name}_{axis}" if size == -1 else size for axis, size in dims]
        yield helper.make_tensor_value_info(tensor.name, ELEMENT_TYPES[tensor.dtype], named)


def _forget_sizes(graph: onnx.GraphProto) -> None:
    """Clear the names of varying sizes in the bodies of a graph's loops.

    ONNX Runtime takes sizes of one name to be equal, and two graphs may have given the same name to
    different sizes.
    """
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                body = attribute.g
                for value in (*body.input, *body.output, *body.value_info):
                    for dim in value.type.tensor_type.shape.dim:
                        if dim.HasField("dim_param"):
                            dim.Clear()
                _forget_sizes(body)
