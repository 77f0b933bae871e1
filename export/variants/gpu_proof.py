"""Proof of a graph for a GPU on noise, in ONNX Runtime on the CPU, before it is installed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from cytoserve.contract import SAM_IMAGE, STEPS, Step
from export.graphs.decoding import decoding_nodes
from export.graphs.files import (
    MAX_MESSAGE_BYTES,
    open_graph,
    open_session,
    tell_errors_only,
    weight_bytes,
)
from export.graphs.tensorrt_form import half_precision
from export.parity.half_precision import beyond_half_budget, half_deviation
from export.repository.install import SAM_SETTING

Arrays = dict[str, npt.NDArray[Any]]

ROWS = (1, 3)
"""Numbers of rows that graphs are compared on, as far as the step takes them."""

ODD_FRAME = (97, 130)
"""Height and width of the noise for a network that takes any, in pixels."""

TOLERANCE = {"u": 0.0, "f": 1e-5}
"""Largest difference in float32 by kind of dtype, as a share of the largest magnitude for floats.

One row is computed in the same way as before; several at once add up in another order."""


class GpuProofError(RuntimeError):
    """A graph or plan for a GPU answers otherwise than the graph that it is made of."""


def noise(step: Step, rows: int, manifest: Mapping[str, Any]) -> Arrays:
    """Rows of uniform noise for a step with one 8-bit input.

    Args:
        step: the step.
        rows: number of rows.
        manifest: manifest of the step's version, which tells the side of a SAM's input.
    """
    [tensor] = step.inputs
    sides = sides_of(step, manifest)
    dims = [dim if dim != -1 else sides[index - 1] for index, dim in enumerate(tensor.dims)]
    return {tensor.name: np.random.default_rng(rows).integers(0, 256, (rows, *dims), np.uint8)}


def sides_of(step: Step, manifest: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width of a network's input where the contract leaves them open, in pixels."""
    if step.inputs == (SAM_IMAGE,):
        side = int(manifest["settings"][SAM_SETTING]["side"])
        return side, side
    return ODD_FRAME


def prove(
    name: str,
    source: Path,
    graph: onnx.ModelProto,
    manifest: Mapping[str, Any],
    half_of: onnx.ModelProto | None = None,
) -> dict[str, dict[str, float]]:
    """Compare a graph with the one that it is made of, and, in float16, with itself in float32.

    Args:
        name: name of the step.
        source: file of the graph in use.
        graph: graph to prove.
        manifest: manifest of the step's version.
        half_of: the graph in float32, if ``graph`` computes in float16.

    Returns:
        Number of rows -> output -> deviation: in float32, and, if asked for, of float16 from it.

    Raises:
        GpuProofError: a deviation is larger than `TOLERANCE`, or than the budget of float16.
    """
    step = STEPS[name]
    # On a processor, float16 is computed in float32; ONNX Runtime warns of every such node.
    tell_errors_only()
    exact = open_graph(graph if half_of is None else half_of)
    old, half = open_session(source), None if half_of is None else open_graph(graph)
    figures: dict[str, dict[str, float]] = {}
    for rows in (rows for rows in ROWS if rows <= step.max_batch):
        given = noise(step, rows, manifest)
        expected, found = answers(step, old, given), answers(step, exact, given)
        figures[f"{rows} rows, float32"] = _same(name, rows, expected, found)
        if half is not None:
            halved = answers(step, half, given)
            if broken := beyond_half_budget(found, halved):
                raise GpuProofError(
                    f"{name} in float16, {rows} rows of noise: {'; '.join(broken)}. Nothing was "
                    "installed. Add --precision fp32."
                )
            figures[f"{rows} rows, float16"] = {
                key: half_deviation(array, halved[key]) for key, array in found.items()
            }
    return figures


def read_graph(name: str, file: Path) -> onnx.ModelProto:
    """Read the graph of a step, to be rewritten.

    Raises:
        GpuProofError: it is too large for one message, to which rewriting is limited.
    """
    graph = onnx.load(file)
    if weight_bytes(graph) > MAX_MESSAGE_BYTES:
        raise GpuProofError(
            f"{name} has {weight_bytes(graph) / 1e9:.1f} GB of weights, and at most "
            f"{MAX_MESSAGE_BYTES / 1e9} GB can be rewritten. Export its pipeline with --fp16."
        )
    return graph


def in_half(graph: onnx.ModelProto) -> onnx.ModelProto:
    """A network in float16, all but what makes boxes and scores of its results."""
    kept = [node for node in decoding_nodes(graph) if "/attn/" not in node]
    return half_precision(graph, kept)


def answers(step: Step, session: Any, given: Arrays) -> Arrays:
    """Run a session; its outputs by name."""
    names = [tensor.name for tensor in step.outputs]
    return dict(zip(names, session.run(names, given), strict=True))


def _same(name: str, rows: int, expected: Arrays, found: Arrays) -> dict[str, float]:
    figures = {}
    for key, array in expected.items():
        scale = max(1.0, float(np.abs(array).max(initial=0.0))) if array.dtype.kind == "f" else 1.0
        same = array.shape == found[key].shape and array.dtype == found[key].dtype
        moved = np.abs(array.astype(np.float64) - found[key]) if same else np.array(np.inf)
        figures[key] = float(moved.max(initial=0.0)) / scale
        if not figures[key] <= TOLERANCE[array.dtype.kind]:
            raise GpuProofError(
                f"{name}, {rows} rows of noise: {key} deviates by {figures[key]:.3g} from the "
                "graph in use. Nothing was installed."
            )
    return figures
