"""The newest version of every model: its files, its manifest, its graph, its pipeline's card."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from cytoserve.contract import PIPELINES, Step, Tensor
from cytoserve.model_config import MODEL_FILES, versions
from export.graphs.files import file_sha256
from export.graphs.types import CONTRACT_DTYPES, leaves_outputs_open
from export.lint.models import Model
from export.lint.problem import Problem
from export.lint.tensors import compare
from export.repository.install import CARD_FILE, MANIFEST_FILE, MODEL_FILE


def lint_versions(model: Model) -> Iterator[Problem]:
    """Files and graph of the newest version; a model that is not exported yet is no problem."""
    version = newest_version(model.folder)
    if version is None:
        return
    if model.config.backend == "python":
        yield from _present(version / MODEL_FILES["python"])
        return
    yield from _manifest(version)
    if model.is_pipeline:
        yield from _present(version / CARD_FILE)
        return
    yield from _graph(version / MODEL_FILE, model.contract)


def lint_variant_graph(variant: Model) -> Iterator[Problem]:
    """The graph that a variant alone serves; one that is not exported yet is no problem."""
    version, name = newest_version(variant.folder), variant.config.default_model_filename
    if version and name and (version / name).is_file():
        yield from _graph(version / name, variant.contract)


def lint_pipeline_versions(ensemble: Model, models: Mapping[str, Model]) -> Iterator[Problem]:
    """An exported pipeline has all of its models, and they are those that its card names."""
    version = newest_version(ensemble.folder)
    if version is None:
        return
    pipeline = PIPELINES[ensemble.contract.name]
    remedy = f"`python -m export {pipeline.name}` makes it"
    for name in (*pipeline.steps, pipeline.card):
        if name in models and newest_version(models[name].folder) is None:
            found = f"none; {remedy}"
            yield Problem(models[name].folder, "version", "a numbered folder", found)
    card = _read_json(version / CARD_FILE)
    named = card.get("models") if card else None
    for name, facts in named.items() if isinstance(named, dict) else ():
        folder = newest_version(models[name].folder) if name in models else None
        manifest = _read_json(folder / MANIFEST_FILE) if folder else None
        served = _sha256(manifest).get(MODEL_FILE) if manifest else None
        if served != facts.get("sha256"):
            yield Problem(
                version / CARD_FILE,
                f"models '{name}' sha256",
                f"{served}, its newest version; `python -m export {pipeline.name}` proves anew",
                str(facts.get("sha256")),
            )


def newest_version(folder: Path) -> Path | None:
    """The version folder that Triton serves."""
    numbers = versions(folder)
    return folder / str(numbers[-1]) if numbers else None


def _present(file: Path) -> Iterator[Problem]:
    if not file.is_file():
        yield Problem(file, "file", "present", "absent")


def _manifest(version: Path) -> Iterator[Problem]:
    """Every file of the version is listed with its sha256, and every listed file is there."""
    file = version / MANIFEST_FILE
    manifest = _read_json(file)
    if manifest is None:
        found = "no JSON object" if file.is_file() else "absent"
        yield Problem(file, "file", "the manifest that an export writes", found)
        return
    listed = _sha256(manifest)
    there = {path.name for path in version.iterdir()} - {MANIFEST_FILE}
    for name in sorted(there - set(listed)):
        yield Problem(file, f"sha256 '{name}'", "an entry, as the file is there", "none")
    for name, expected in sorted(listed.items()):
        if name not in there:
            yield Problem(version / name, "file", "present, as its manifest says", "absent")
            continue
        found = file_sha256(version / name)
        if found != expected:
            yield Problem(version / name, "sha256", f"{expected} of its manifest", found)


def _graph(file: Path, step: Step) -> Iterator[Problem]:
    if not file.is_file():
        yield Problem(file, "file", "present", "absent")
        return
    try:
        graph = onnx.load(file, load_external_data=False).graph
    except DecodeError as error:
        yield Problem(file, "file", "an ONNX model", f"a damaged one: {error}")
        return
    for role, values, tensors in (
        ("input", graph.input, step.inputs),
        ("output", graph.output, step.outputs),
    ):
        found = [_declared(value) for value in values]
        expected = [Tensor(t.name, t.dtype, step.graph_dims(t)) for t in tensors]
        if role == "output" and leaves_outputs_open(step):
            expected = _with_class_count(expected, found)
        yield from compare(file, role, expected, found)


def _declared(value: onnx.ValueInfoProto) -> Tensor:
    """An input or output of a graph; a symbolic dim is -1."""
    declared = value.type.tensor_type
    dtype = CONTRACT_DTYPES.get(declared.elem_type)
    dims = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in declared.shape.dim)
    return Tensor(value.name, dtype or onnx.TensorProto.DataType.Name(declared.elem_type), dims)


def _with_class_count(expected: list[Tensor], found: list[Tensor]) -> list[Tensor]:
    """What the contract leaves open behind the batch takes the size that the network has."""
    there = {tensor.name: tensor.dims for tensor in found}
    completed = []
    for tensor in expected:
        dims = there.get(tensor.name, tensor.dims)
        if len(dims) == len(tensor.dims):
            open_dims = zip(tensor.dims[1:], dims[1:], strict=True)
            own = (own if own != -1 else size for own, size in open_dims)
            tensor = Tensor(tensor.name, tensor.dtype, (tensor.dims[0], *own))
        completed.append(tensor)
    return completed


def _read_json(file: Path) -> dict[str, Any] | None:
    """The JSON object of a file; None where there is none."""
    try:
        content = json.loads(file.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _sha256(manifest: Mapping[str, Any]) -> dict[str, str]:
    listed = manifest.get("sha256")
    return listed if isinstance(listed, dict) else {}
