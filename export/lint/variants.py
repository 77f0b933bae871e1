"""The variants of a model: ``configs/<variant>.pbtxt`` beside its ``config.pbtxt``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace

from google.protobuf.json_format import MessageToDict
from tritonclient.grpc import model_config_pb2

from cytoserve.contract import PIPELINES
from cytoserve.model_config import VARIANT_FOLDER, ModelConfigError, read_config
from export.lint.ensembles import lint_ensemble
from export.lint.exported import lint_variant_graph
from export.lint.models import Model
from export.lint.problem import Problem
from export.lint.serving import lint_serving
from export.lint.tensors import lint_tensors

OWN_FIELDS = (
    *("default_model_filename", "optimization"),
    *("instance_group", "parameters", "max_batch_size"),
)
"""What a variant may say otherwise than ``config.pbtxt``: which graph is computed, by what, how
often at the same time, in how many threads, and of how many frames at once."""

PIPELINE_FIELD = "ensemble_scheduling"
"""What a variant of a pipeline says otherwise: which steps do the work."""

ACCELERATOR = "openvino"
"""The one that ONNX Runtime's backend knows for a CPU."""


def lint_variants(model: Model, models: Mapping[str, Model]) -> Iterator[Problem]:
    """All rules for every variant of one model.

    Args:
        model: a model.
        models: every model whose config could be read, by name.
    """
    folder = model.folder / VARIANT_FOLDER
    one_way = model.is_pipeline and not PIPELINES[model.contract.name].fused
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if one_way or file.suffix != ".pbtxt":
            expected = "absent: variants are <variant>.pbtxt of steps, or of pipelines that fuse"
            yield Problem(file, "file", expected, "present")
            continue
        try:
            config = read_config(file)
        except ModelConfigError as error:
            yield Problem(file, "file", "a config of Triton's schema", str(error))
            continue
        variant = replace(model, config=config, file_name=f"{VARIANT_FOLDER}/{file.name}")
        yield from lint_serving(variant)
        yield from lint_tensors(variant)
        yield from _as_default(model, variant)
        yield from _accelerators(variant)
        if model.is_pipeline:
            yield from lint_ensemble(variant, models)
        else:
            yield from lint_variant_graph(variant)


def _as_default(model: Model, variant: Model) -> Iterator[Problem]:
    """A variant is the same model to its callers and to the ensembles."""
    own_fields = (PIPELINE_FIELD,) if model.is_pipeline else OWN_FIELDS
    fields = model_config_pb2.ModelConfig.DESCRIPTOR.fields_by_name
    default, own = (
        MessageToDict(m.config, preserving_proto_field_name=True) for m in (model, variant)
    )
    for name in fields:
        if name not in own_fields and default.get(name) != own.get(name):
            expected = f"{json.dumps(default.get(name))} of {model.file_name}"
            yield Problem(variant.file, name, expected, json.dumps(own.get(name)))


def _accelerators(variant: Model) -> Iterator[Problem]:
    field = "optimization.execution_accelerators"
    accelerators = variant.config.optimization.execution_accelerators
    for accelerator in accelerators.cpu_execution_accelerator:
        if accelerator.name != ACCELERATOR:
            yield Problem(variant.file, field, f"'{ACCELERATOR}'", f"'{accelerator.name}'")
        settings = accelerator.parameters.get("load_config", "{}")
        try:
            json.loads(settings)
        except ValueError:
            yield Problem(variant.file, f"{field} 'load_config'", "JSON", settings)
