"""One step of a pipeline: its module exported as a graph and proven equal."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
import torch
from torch import nn

from cytoserve.contract import STEPS
from export.graphs.micro_batches import wrap_in_loop, wrap_in_row_scan
from export.graphs.trace import trace_graph
from export.parity.steps import FLOAT_TOLERANCE, Case, check_parity


@dataclass(frozen=True)
class ExportedStep:
    """A graph that was proven equal to its module, with the deviations that were found."""

    name: str
    graph: onnx.ModelProto
    parity: dict[str, dict[str, float]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Choices that were made at export and are fixed in the graph."""


def export_step(
    name: str,
    module: nn.Module,
    cases: Sequence[Case],
    *,
    chunk: int | None = None,
    single_rows: bool = False,
    chunked: Collection[str] | None = None,
    reference: nn.Module | None = None,
    float_tolerance: float = FLOAT_TOLERANCE,
    settings: Mapping[str, Any] | None = None,
) -> ExportedStep:
    """Trace ``module`` with the first case and check the graph on all cases.

    Args:
        name: name of the step in the contract.
        module: module that the graph must equal.
        cases: inputs to compare on.
        chunk: number of rows that the graph takes at once, see `micro_batches.wrap_in_loop`; None:
            all.
        single_rows: take rows one by one, see `micro_batches.wrap_in_row_scan`.
        chunked: names of the inputs that are cut into chunks; None: all inputs.
        reference: more exact module that the graph must equal in place of ``module``; None:
            ``module``.
        float_tolerance: largest deviation of a float tensor, see
            `export.parity.steps.FLOAT_TOLERANCE`.
        settings: choices that are fixed in the module, for the manifest.

    Raises:
        ParityError: the graph's answers deviate from the module's.
    """
    step = STEPS[name]
    graph = trace_graph(module.eval(), step, cases[0].inputs)
    if chunk is not None:
        _declare_row_dims(graph, module, cases[0])
        graph = wrap_in_loop(graph, chunk, chunked)
    elif single_rows:
        graph = wrap_in_row_scan(graph)
    original = module if reference is None else reference.eval()
    parity = check_parity(original, graph, step, cases, float_tolerance)
    return ExportedStep(name, graph, parity, settings or {})


def _declare_row_dims(graph: onnx.ModelProto, module: nn.Module, case: Case) -> None:
    """Write the row dims of every output into its graph.

    A network for any number of classes leaves them open, but a loop begins with zero rows of these
    dims.
    """
    with torch.inference_mode():
        outputs = module(*case.inputs)
    outputs = [outputs] if isinstance(outputs, torch.Tensor) else outputs
    for value, output in zip(graph.graph.output, outputs, strict=True):
        for dim, size in zip(value.type.tensor_type.shape.dim[1:], output.shape[1:], strict=True):
            dim.dim_value = size
