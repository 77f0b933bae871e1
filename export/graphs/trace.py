"""From torch modules to ONNX graphs with the contract's names, dtypes and dims.

Beside the tracing itself, this is an operation that traced modules need and this opset of ONNX
lacks: bilinear resizing from any size to any size, without aliasing.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import onnx
import torch
from onnx.external_data_helper import load_external_data_for_model
from torch import Tensor

from cytoserve.contract import Step
from cytoserve.contract import Tensor as ContractTensor
from export.graphs.files import ELEMENT_TYPES, OPSET


def trace_graph(
    module: torch.nn.Module, step: Step, example: Sequence[torch.Tensor]
) -> onnx.ModelProto:
    """Export ``module`` as the graph of ``step``; dims that are -1 in the contract are dynamic.

    The tracing exporter is used because `torch.export` cannot yet follow NMS, whose output size
    depends on data. torch supports little arithmetic on uint16, so such inputs are traced as int32
    and declared as uint16 afterwards. This works because the modules read them only by gathers and
    casts, which accept both.
    """
    # Without gradients, which would keep every intermediate result in memory.
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
        # The exporter warns that it is superseded, that sizes became constants (as the modules
        # intend), and that it leaves its own arithmetic on paddings to ONNX Runtime.
        warnings.filterwarnings("ignore", "Constant folding", UserWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        file = Path(folder) / "graph.onnx"
        torch.onnx.export(
            module.eval(),
            tuple(example),
            str(file),  # with a Path it writes one message, which is limited to 2 GiB
            dynamo=False,
            opset_version=OPSET,
            input_names=[tensor.name for tensor in step.inputs],
            output_names=[tensor.name for tensor in step.outputs],
            dynamic_axes={t.name: _dynamic_axes(t, step) for t in (*step.inputs, *step.outputs)},
        )
        graph = onnx.load(file, load_external_data=False)
        _declare(graph, step)
        # Checked as a file: weights above 2 GiB, which the exporter writes beside it, do not fit
        # into one message.
        onnx.save(graph, file)
        onnx.checker.check_model(str(file), full_check=True)
        load_external_data_for_model(graph, folder)
    return graph


def resize(images: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """Resize images float32 ``[..., H, W]`` to ``[..., height, width]``.

    The result equals that of torch's `interpolate(mode="bilinear", antialias=True)` and of Pillow:
    where a side is reduced, the triangle that weighs source pixels widens with the scale. Two
    matrix products do this, because ONNX's Resize in the opset in use cannot widen the triangle.
    """
    shape = torch._shape_as_tensor(images)
    rows = bilinear_weights(shape[-2], height)
    columns = bilinear_weights(shape[-1], width)
    return torch.matmul(torch.matmul(rows, images), columns.transpose(0, 1))


def bilinear_weights(source: Tensor, target: Tensor) -> Tensor:
    """Share of every source pixel in every target pixel: float32 ``[target, source]``."""
    scale = source.double() / target.double()
    centres = _centres(target) * scale
    distances = _centres(source) - centres[:, None]
    weights = torch.clamp(1 - distances.abs() / torch.clamp(scale, min=1.0), min=0.0)
    return (weights / weights.sum(dim=1, keepdim=True)).float()


def _dynamic_axes(tensor: ContractTensor, step: Step) -> dict[int, str]:
    """Axis -> name of every dim that varies.

    In a network for any number of classes, only the batch varies: a graph must not promise more
    than it does.
    """
    dims = step.graph_dims(tensor)[:1] if step.leaves_outputs_open else step.graph_dims(tensor)
    return {axis: f"{tensor.name}_{axis}" for axis, dim in enumerate(dims) if dim == -1}


def _declare(graph: onnx.ModelProto, step: Step) -> None:
    """Write the contract's dtypes and fixed dims over those of the traced inputs and outputs."""
    values = {value.name: value for value in (*graph.graph.input, *graph.graph.output)}
    for tensor in (*step.inputs, *step.outputs):
        declared = values[tensor.name].type.tensor_type
        declared.elem_type = ELEMENT_TYPES[tensor.dtype]
        for dim, size in zip(declared.shape.dim, step.graph_dims(tensor), strict=True):
            if size != -1:
                dim.dim_value = size


def _centres(length: Tensor) -> Tensor:
    indices: Tensor = torch.arange(length)  # type: ignore[call-overload]  # not a number
    return indices.double() + 0.5
