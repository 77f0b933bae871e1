"""How an ensemble wires its steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from cytoserve.contract import PIPELINES, STEPS, Pipeline, Tensor
from export.graphs.types import leaves_outputs_open
from export.lint.models import Model, configured, show_dims
from export.lint.problem import Problem

FIELD = "ensemble_scheduling.step"


def lint_ensemble(ensemble: Model, models: Mapping[str, Model]) -> Iterator[Problem]:
    """Check one ensemble against the contract and against the configs of its steps.

    Args:
        ensemble: a pipeline.
        models: every model whose config could be read, by name.
    """
    steps = list(ensemble.config.ensemble_scheduling.step)
    names = [step.model_name for step in steps]
    expected = expected_steps(PIPELINES[ensemble.contract.name], ensemble.is_variant)
    if tuple(names) != expected:
        yield Problem(ensemble.file, FIELD, ", ".join(expected), ", ".join(names) or "none")
    known = [step for step in steps if step.model_name in models]
    for name in names:
        if name not in models:
            yield Problem(ensemble.file, FIELD, "a model of the repository", f"'{name}'")
    for step in known:
        yield from _maps(ensemble, step, models[step.model_name])
    yield from _wiring(ensemble, known, models)
    yield from _usage(ensemble, steps)
    yield from _on_request(ensemble, steps)


def expected_steps(pipeline: Pipeline, is_variant: bool) -> tuple[str, ...]:
    """Steps of a pipeline, or of its variant: the fused one, and those that run on request."""
    if not (is_variant and pipeline.fused):
        return pipeline.steps
    on_request = set(pipeline.on_request)
    return (pipeline.fused, *(s for s in pipeline.steps if on_request & set(STEPS[s].outputs)))


def _maps(ensemble: Model, step: Any, model: Model) -> Iterator[Problem]:
    """Every input of a step is wired, and nothing that it does not have."""
    field = f"{FIELD} '{step.model_name}'"
    inputs = {tensor.name for tensor in _inputs(model)}
    outputs = {tensor.name for tensor in _outputs(model)}
    for name in sorted(inputs - set(step.input_map)):
        yield Problem(ensemble.file, f"{field} input_map", f"input '{name}'", "it is not wired")
    for name in sorted(set(step.input_map) - inputs):
        expected = f"only {', '.join(sorted(inputs))}"
        yield Problem(ensemble.file, f"{field} input_map", expected, f"'{name}'")
    for name in sorted(set(step.output_map) - outputs):
        expected = f"only {', '.join(sorted(outputs))}"
        yield Problem(ensemble.file, f"{field} output_map", expected, f"'{name}'")
    if step.model_version != -1:
        expected = "-1, the newest"
        yield Problem(ensemble.file, f"{field} model_version", expected, str(step.model_version))


def _wiring(ensemble: Model, steps: list[Any], models: Mapping[str, Model]) -> Iterator[Problem]:
    """What is read exists by then, and both ends of every wire agree in dtype and dims."""
    wires = {tensor.name: tensor for tensor in _inputs(ensemble)}
    for step in steps:
        model, field = models[step.model_name], f"{FIELD} '{step.model_name}'"
        for tensor in _inputs(model):
            wire = step.input_map.get(tensor.name)
            if wire is None:
                continue
            if wire not in wires:
                expected = "an input of the ensemble or an output of an earlier step"
                yield Problem(ensemble.file, f"{field} input_map", expected, f"'{wire}'")
            else:
                place = f"{field} input '{tensor.name}'"
                yield from _same(ensemble, place, tensor, wires[wire])
        for tensor in _outputs(model):
            if tensor.name in step.output_map:
                wires[step.output_map[tensor.name]] = tensor
    for output in _outputs(ensemble):
        if output.name in wires:
            yield from _same(ensemble, f"output '{output.name}'", output, wires[output.name])


def _usage(ensemble: Model, steps: list[Any]) -> Iterator[Problem]:
    """Every tensor has one source, every output is made, and nothing is made for nobody."""
    inputs = [tensor.name for tensor in ensemble.config.input]
    outputs = [tensor.name for tensor in ensemble.config.output]
    sources = Counter([*inputs, *(wire for step in steps for wire in step.output_map.values())])
    read = {wire for step in steps for wire in step.input_map.values()}
    for wire, count in sources.items():
        if count > 1:
            yield Problem(ensemble.file, f"tensor '{wire}'", "one source", str(count))
        if wire not in read and wire not in outputs:
            expected = "a step that reads it, or an output of that name"
            yield Problem(ensemble.file, f"tensor '{wire}'", expected, "it is unused")
    for output in outputs:
        if output not in sources or output in inputs:
            yield Problem(ensemble.file, f"output '{output}'", "a step that makes it", "none")


def _on_request(ensemble: Model, steps: list[Any]) -> Iterator[Problem]:
    """A step that may be skipped must read no output of the ensemble, or Triton deadlocks."""
    skippable = {tensor.name for tensor in PIPELINES[ensemble.contract.name].on_request}
    outputs = {tensor.name for tensor in ensemble.config.output}
    for step in steps:
        if not skippable & set(step.output_map.values()):
            continue
        for own, wire in sorted(step.input_map.items()):
            if wire in outputs:
                field = f"{FIELD} '{step.model_name}' input '{own}'"
                expected = "an internal tensor, as the step runs on request only"
                yield Problem(ensemble.file, field, expected, f"'{wire}', an output")


def _same(ensemble: Model, field: str, reader: Tensor, source: Tensor) -> Iterator[Problem]:
    if reader.dtype != source.dtype:
        yield Problem(ensemble.file, f"{field} data_type", reader.dtype, source.dtype)
    fits = len(reader.dims) == len(source.dims) and all(
        -1 in pair or pair[0] == pair[1] for pair in zip(reader.dims, source.dims, strict=True)
    )
    if not fits:
        yield Problem(
            ensemble.file, f"{field} dims", show_dims(reader.dims), show_dims(source.dims)
        )


def _inputs(model: Model) -> list[Tensor]:
    """Inputs as an ensemble sees them: of a batching model the batch is the leading dim."""
    return _with_batch(model, configured(model.config.input))


def _outputs(model: Model) -> list[Tensor]:
    if model.config.output or not leaves_outputs_open(model.contract):
        return _with_batch(model, configured(model.config.output))
    return _with_batch(model, list(model.contract.outputs))


def _with_batch(model: Model, tensors: list[Tensor]) -> list[Tensor]:
    batch = (-1,) if model.config.max_batch_size > 0 else ()
    return [Tensor(tensor.name, tensor.dtype, (*batch, *tensor.dims)) for tensor in tensors]
