"""How a model is run: backend, batching, instances, parameters, response cache, warm-up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cytoserve.contract import SAM_EMBEDDING, Tensor
from export.lint.models import STEP_BACKENDS, Model, configured, dtype_name, show_dims
from export.lint.problem import Problem

PARAMETERS = {
    "onnxruntime": (
        "intra_op_thread_count",
        "inter_op_thread_count",
        "execution_mode",
        "enable_mem_arena",
        "enable_mem_pattern",
    ),
    "python": ("FORCE_CPU_ONLY_INPUT_TENSORS",),
}
"""What the native backends and the embedded server's stand-in read alike."""


def lint_serving(model: Model) -> Iterator[Problem]:
    """All rules of this module for one config."""
    yield from _identity(model)
    yield from _batching(model)
    yield from _instances(model)
    yield from _parameters(model)
    yield from _response_cache(model)
    yield from _warmups(model)


def _identity(model: Model) -> Iterator[Problem]:
    config, name = model.config, model.contract.name
    if config.name != name:
        yield Problem(model.file, "name", f"'{name}', as its folder", f"'{config.name}'")
    if model.is_pipeline:
        if config.platform != "ensemble" or config.backend:
            found = f"platform '{config.platform}', backend '{config.backend}'"
            yield Problem(model.file, "platform", "'ensemble' and no backend", found)
    elif config.backend not in STEP_BACKENDS or config.platform:
        found = f"backend '{config.backend}', platform '{config.platform}'"
        yield Problem(model.file, "backend", " or ".join(STEP_BACKENDS), found)


def _batching(model: Model) -> Iterator[Problem]:
    config, batches = model.config, model.contract.batches
    if (config.max_batch_size > 0) != batches:
        expected = "more than 0: a network step" if batches else "0: it sees one frame at a time"
        yield Problem(model.file, "max_batch_size", expected, str(config.max_batch_size))
    if config.HasField("dynamic_batching") != batches:
        expected = "present: a network step" if batches else "absent: it does not batch"
        found = "absent" if batches else "present"
        yield Problem(model.file, "dynamic_batching", expected, found)


def _instances(model: Model) -> Iterator[Problem]:
    counts = [group.count for group in model.config.instance_group]
    if model.is_pipeline:
        if counts:
            yield Problem(model.file, "instance_group", "none on an ensemble", str(counts))
    elif not counts or min(counts) < 1:
        expected = "a count of 1 or more; without one Triton starts what it likes"
        yield Problem(model.file, "instance_group count", expected, str(counts or "none"))


def _parameters(model: Model) -> Iterator[Problem]:
    known = PARAMETERS.get(model.config.backend, ())
    for key, value in sorted(model.config.parameters.items()):
        if key not in known:
            expected = f"one of {', '.join(known)}" if known else "none"
            yield Problem(model.file, "parameters", expected, f"'{key}'")
        elif model.config.backend == "onnxruntime" and not value.string_value.isdecimal():
            yield Problem(
                model.file, f"parameters '{key}'", "a whole number", f"'{value.string_value}'"
            )


def _response_cache(model: Model) -> Iterator[Problem]:
    """Answers may be kept where the same request always has the same answer, and pays.

    A cache is asked by a hash over all of a request's bytes, so it is for networks; in front of
    an ensemble it would keep what a person hardly asks for twice.
    """
    config, field = model.config, "response_cache"
    if SAM_EMBEDDING in model.contract.outputs and not config.response_cache.enable:
        expected = "enable: true, so that further prompts on a frame cost the decoder only"
        yield Problem(model.file, field, expected, "absent")
    if not config.response_cache.enable:
        return
    if not (model.contract.batches and config.backend == "onnxruntime"):
        yield Problem(model.file, field, "absent: it is for network steps", "enabled")
    if config.HasField("sequence_batching") or config.model_transaction_policy.decoupled:
        found = "enabled beside sequence_batching or a decoupled policy"
        yield Problem(model.file, field, "absent: answers depend on earlier requests", found)


def _warmups(model: Model) -> Iterator[Problem]:
    config = model.config
    if not model.contract.batches:
        if model.is_pipeline and config.model_warmup:
            expected = "absent: Triton refuses it on an ensemble"
            yield Problem(model.file, "model_warmup", expected, "present")
        return
    # The side of an image encoder's input is that of the SAM that was exported: no one config
    # could warm up every size. The server's canary asks it before the first client does.
    if not config.model_warmup and SAM_EMBEDDING not in model.contract.outputs:
        expected = "present: the first request to a network step must not pay for its start"
        yield Problem(model.file, "model_warmup", expected, "absent")
    for sample in config.model_warmup:
        field = f"model_warmup '{sample.name}'"
        if not 1 <= sample.batch_size <= config.max_batch_size:
            expected = f"1 to max_batch_size {config.max_batch_size}"
            yield Problem(model.file, f"{field} batch_size", expected, str(sample.batch_size))
        yield from _warmup_inputs(model, sample, field)


def _warmup_inputs(model: Model, sample: Any, field: str) -> Iterator[Problem]:
    inputs = {tensor.name: tensor for tensor in configured(model.config.input)}
    if set(sample.inputs) != set(inputs):
        given = ", ".join(sorted(sample.inputs)) or "none"
        yield Problem(model.file, f"{field} inputs", ", ".join(sorted(inputs)), given)
    for name in sorted(set(sample.inputs) & set(inputs)):
        yield from _warmup_input(model, inputs[name], sample.inputs[name], f"{field} '{name}'")


def _warmup_input(model: Model, tensor: Tensor, given: Any, field: str) -> Iterator[Problem]:
    if dtype_name(given.data_type) != tensor.dtype:
        yield Problem(model.file, f"{field} data_type", tensor.dtype, dtype_name(given.data_type))
    fits = len(given.dims) == len(tensor.dims) and all(
        size > 0 and dim in (-1, size) for size, dim in zip(given.dims, tensor.dims, strict=True)
    )
    if not fits:
        expected = f"sizes within {show_dims(tensor.dims)}"
        yield Problem(model.file, f"{field} dims", expected, show_dims(given.dims))
    if given.WhichOneof("input_data_type") is None:
        yield Problem(model.file, f"{field} data", "zero_data, random_data or a file", "none")
