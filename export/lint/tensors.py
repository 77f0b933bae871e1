"""Inputs and outputs of a config or a graph against those of the contract."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from cytoserve.contract import Tensor
from export.graphs.types import leaves_outputs_open
from export.lint.models import Model, configured, show_dims
from export.lint.problem import Problem


def lint_tensors(model: Model) -> Iterator[Problem]:
    """Names, dtypes and dims of a config's inputs and outputs."""
    step, config = model.contract, model.config
    expected = [Tensor(t.name, t.dtype, step.config_dims(t)) for t in step.inputs]
    yield from compare(model.file, "input", expected, configured(config.input))
    if not config.output and leaves_outputs_open(step):
        return
    expected = [Tensor(t.name, t.dtype, step.config_dims(t)) for t in step.outputs]
    yield from compare(model.file, "output", expected, configured(config.output))


def compare(
    file: Path, role: str, expected: Sequence[Tensor], found: Sequence[Tensor]
) -> Iterator[Problem]:
    """Compare two lists of tensors by name; ``role`` is ``input`` or ``output``."""
    wanted = {tensor.name: tensor for tensor in expected}
    there = {tensor.name: tensor for tensor in found}
    for tensor in found:
        if tensor.name not in wanted:
            yield Problem(file, role, f"only {', '.join(wanted)}", f"'{tensor.name}'")
    if len(there) < len(found):
        yield Problem(file, role, "every name once", ", ".join(t.name for t in found))
    for name, tensor in wanted.items():
        if name not in there:
            text = f"'{name}' {tensor.dtype} {show_dims(tensor.dims)}"
            yield Problem(file, role, text, "no such tensor")
            continue
        field, other = f"{role} '{name}'", there[name]
        if other.dtype != tensor.dtype:
            yield Problem(file, f"{field} data_type", tensor.dtype, other.dtype)
        if other.dims != tensor.dims:
            yield Problem(file, f"{field} dims", show_dims(tensor.dims), show_dims(other.dims))
