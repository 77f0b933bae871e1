"""One step of a pipeline: its module exported as a graph and proven equal, or no export.

The graph in ONNX Runtime and the module in torch must give the same numbers on every case.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn

from cytoserve.contract import STEPS, Step
from export.graphs.files import open_graph
from export.graphs.micro_batches import wrap_in_loop, wrap_in_row_scan
from export.graphs.trace import trace_graph

FLOAT_TOLERANCE = 1e-4
"""Largest deviation of a float tensor, as a share of its largest magnitude (at least 1)."""

LEVEL_TOLERANCE = 1.0
"""Largest deviation of an 8-bit tensor, in levels: a value on the edge may round either way."""


class ParityError(RuntimeError):
    """The answers of a graph, or of a chain of graphs, deviate from the original's."""


@dataclass(frozen=True)
class Case:
    """Inputs of one check, in the order of the step's inputs, named after what it tries."""

    name: str
    inputs: tuple[torch.Tensor, ...]


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
        float_tolerance: largest deviation of a float tensor, see `FLOAT_TOLERANCE`.
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


def check_parity(
    module: Callable[..., torch.Tensor | tuple[torch.Tensor, ...]],
    graph: onnx.ModelProto,
    step: Step,
    cases: Sequence[Case],
    float_tolerance: float = FLOAT_TOLERANCE,
) -> dict[str, dict[str, float]]:
    """Run every case through module and graph and compare all outputs.

    Args:
        module: the original module.
        graph: the graph exported from it.
        step: step of the contract, which names and orders inputs and outputs.
        cases: inputs to compare on.
        float_tolerance: largest deviation of a float tensor, see `FLOAT_TOLERANCE`.

    Returns:
        Case name -> tensor name -> deviation, in the units of `deviation`.

    Raises:
        ParityError: a shape or dtype differs, or a deviation is beyond tolerance; the message
            names step, case and tensor.
    """
    session = open_graph(graph)
    declared = {value.name: value.type for value in session.get_inputs()}
    figures: dict[str, dict[str, float]] = {}
    for case in cases:
        with torch.inference_mode():
            outputs = module(*case.inputs)
        expected = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
        feeds = {
            tensor.name: _as_declared(value.numpy(), declared[tensor.name])
            for tensor, value in zip(step.inputs, case.inputs, strict=True)
        }
        answers = session.run([tensor.name for tensor in step.outputs], feeds)
        figures[case.name] = {}
        for tensor, theirs, ours in zip(step.outputs, expected, answers, strict=True):
            figure = deviation(theirs.numpy(), ours)
            figures[case.name][tensor.name] = figure
            tolerance = allowed(ours.dtype, float_tolerance)
            if figure > tolerance:
                raise ParityError(
                    f"{step.name}, case '{case.name}', output '{tensor.name}': ONNX Runtime "
                    f"deviates from torch by {figure:.3g}; at most {tolerance:g} is allowed."
                )
    return figures


def deviation(expected: npt.NDArray[np.generic], answer: npt.NDArray[np.generic]) -> float:
    """Largest difference: relative to the largest magnitude for floats, absolute for integers.

    Infinite where shape or dtype differ, a value is NaN, or one is infinite on one side only.
    """
    if expected.shape != answer.shape or expected.dtype != answer.dtype:
        return float("inf")
    ours, theirs = answer.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(theirs)
    if not np.isfinite(ours[finite]).all() or not np.array_equal(ours[~finite], theirs[~finite]):
        return float("inf")
    difference = np.abs(theirs[finite] - ours[finite]).max(initial=0.0)
    scale = np.abs(theirs[finite]).max(initial=1.0) if expected.dtype.kind == "f" else 1.0
    return float(difference / scale)


def allowed(dtype: npt.DTypeLike, float_tolerance: float = FLOAT_TOLERANCE) -> float:
    """Largest `deviation` that rounding explains, for a tensor of this dtype."""
    if dtype == np.uint8:
        return LEVEL_TOLERANCE
    return float_tolerance if np.dtype(dtype).kind == "f" else 0.0


def camera_frame(height: int, width: int, channels: int) -> Tensor:
    """A camera frame int32 ``[H, W, C]``: 12-bit values on a gradient."""
    gradient = torch.linspace(0, 1000, width).to(torch.int32)[None, :, None]
    noise = torch.randint(0, 3000, (height, width, channels), generator=generator())
    return noise.to(torch.int32) + gradient


def pixels(*shape: int) -> Tensor:
    """Uniform noise, uint8 of any shape."""
    return torch.randint(0, 256, shape, generator=generator(), dtype=torch.uint8)


def generator() -> torch.Generator:
    """A generator that starts at the same seed each time."""
    return torch.Generator().manual_seed(0)


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


def _as_declared(value: npt.NDArray[np.generic], declared: str) -> npt.NDArray[np.generic]:
    """Convert camera values, which are int32 in torch, to the graph's uint16.

    See `export.graphs.trace`.
    """
    return value.astype(np.uint16) if declared == "tensor(uint16)" else value
