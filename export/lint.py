"""Compare a model repository with the contract, its manifests and its graphs.

No server is started: the files alone show what Triton would refuse to load or answer wrongly.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from cytoserve.contract import (
    PIPELINES,
    PLAN_GRAPH,
    STEPS,
    Pipeline,
    Step,
    StepVariant,
    Tensor,
    plan_file,
)
from cytoserve.files import file_sha256
from cytoserve.model_config import (
    CARD_FILE,
    MANIFEST_FILE,
    MODEL_FILES,
    VARIANT_FOLDER,
    config_file,
    versions,
)
from export.graphs.files import CONTRACT_DTYPES
from export.repository.configs import COMMAND, card_step, configs
from export.repository.install import MODEL_FILE, SAM_SETTING, STAGING

NOT_IN_TENSORRT = ("UINT16", "BYTES")
"""Dtypes of the contract that TensorRT has not, not even at the border of a network."""


@dataclass(frozen=True)
class Problem:
    """One disagreement, printed as one line that names all four fields."""

    file: Path
    field: str
    expected: str
    found: str

    def __str__(self) -> str:
        text = f"{self.file}: {self.field}: expected {self.expected}, found {self.found}"
        return " ".join(text.split())


def lint_repository(repository: Path) -> list[Problem]:
    """List the problems of a model repository, model by model; a clean one has none."""
    problems = [*_folders(repository), *_configs(repository)]
    for step in (*STEPS.values(), *map(card_step, PIPELINES.values())):
        problems += _step_version(repository, step)
    for pipeline in PIPELINES.values():
        problems += _pipeline_version(repository, pipeline)
        problems += _one_sam(repository, pipeline)
    return problems


def newest_version(folder: Path) -> Path | None:
    """The version folder of a model that Triton serves; None where nothing was exported."""
    numbers = versions(folder)
    return folder / str(numbers[-1]) if numbers else None


def _folders(repository: Path) -> Iterator[Problem]:
    known = {path.parts[0] for path in configs()}
    for folder in sorted(path for path in repository.iterdir() if path.is_dir()):
        if folder.name == STAGING:
            found = "present: an export runs, or was cut off; the next one removes it"
            yield Problem(folder, "folder", "absent", found)
        elif folder.name not in known:
            found = "unknown to cytoserve.contract"
            yield Problem(folder, "folder", "a step, pipeline or card", found)


def _configs(repository: Path) -> Iterator[Problem]:
    """Check that every configuration says what the contract says, and that there are no others."""
    texts = configs()
    for path, text in texts.items():
        file = repository / path
        if not file.is_file():
            yield Problem(file, "file", f"what `{COMMAND}` writes", "absent")
            continue
        lines = zip_longest(text.splitlines(), file.read_text(errors="replace").splitlines())
        for number, (expected, found) in enumerate(lines, 1):
            if expected != found:
                wanted = f"{_line(expected)}, which `{COMMAND}` writes"
                yield Problem(file, f"line {number}", wanted, _line(found))
                break
    for file in sorted(repository.glob(f"*/{VARIANT_FOLDER}/*")):
        if file.relative_to(repository) not in texts:
            yield Problem(file, "file", "absent: the contract has no such variant", "present")


def _line(text: str | None) -> str:
    return "the end of the file" if text is None else f"`{text}`"


def _step_version(repository: Path, step: Step) -> Iterator[Problem]:
    """Check the files and graphs of the newest version; a step not exported yet is no problem."""
    version = newest_version(repository / step.name)
    if version is None:
        return
    if step.backend == "python":
        yield from _present(version / MODEL_FILES["python"])
        return
    yield from _manifest(version)
    yield from _graph(version / MODEL_FILE, step)
    for variant in step.variants:
        if variant.graph and (version / variant.graph).is_file():
            yield from _graph(version / variant.graph, step)
        if variant.plan_rows:
            yield from _plan_tensors(repository, step, variant)
            yield from _plans(version, step, variant)


def _plan_tensors(repository: Path, step: Step, variant: StepVariant) -> Iterator[Problem]:
    """Check that TensorRT knows the dtypes of a step that it runs."""
    file = config_file(repository / step.name, variant.name)
    for role, tensors in (("input", step.inputs), ("output", step.outputs)):
        for tensor in tensors:
            if tensor.dtype in NOT_IN_TENSORRT:
                field = f"{role} '{tensor.name}' data_type"
                yield Problem(file, field, "one that TensorRT has", tensor.dtype)


def _plans(version: Path, step: Step, variant: StepVariant) -> Iterator[Problem]:
    """Check the graph that plans are made of, and that each plan is of it and takes whole batches.

    Triton refuses a batch that is larger than the plan's profile, and a plan that is not there only
    when it loads it.
    """
    graph = version / PLAN_GRAPH
    if graph.is_file():
        yield from _graph(graph, step)
    assert variant.plan_rows is not None
    manifest = _read_json(version / MANIFEST_FILE) or {}
    sha256 = _sha256(manifest).get(PLAN_GRAPH)
    about = manifest.get("variants", {})
    for file in sorted(version.glob(plan_file("*"))):
        key = about.get(file.name, {}).get("key", {})
        if key.get("graph_sha256") != sha256:
            yield Problem(file, "graph_sha256", f"{sha256} of {PLAN_GRAPH}", f"{key or 'no key'}")
        for name, (_, _, largest) in key.get("profiles", {}).items():
            if largest[0] != variant.plan_rows[-1]:
                expected = f"max_batch_size of its configuration, {variant.plan_rows[-1]}"
                yield Problem(file, f"profile of '{name}'", expected, f"{largest[0]} rows")


def _pipeline_version(repository: Path, pipeline: Pipeline) -> Iterator[Problem]:
    """Check that an exported pipeline has all of its models, and those that its card names."""
    version = newest_version(repository / pipeline.name)
    if version is None:
        return
    yield from _manifest(version)
    yield from _present(version / CARD_FILE)
    remedy = f"`python -m export {pipeline.name}` makes it"
    for name in (*pipeline.steps, pipeline.card):
        if newest_version(repository / name) is None:
            yield Problem(repository / name, "version", "a numbered folder", f"none; {remedy}")
    card = _read_json(version / CARD_FILE)
    named = card.get("models") if card else None
    for name, facts in named.items() if isinstance(named, dict) else ():
        folder = newest_version(repository / name)
        manifest = _read_json(folder / MANIFEST_FILE) if folder else None
        served = _sha256(manifest).get(MODEL_FILE) if manifest else None
        if served != facts.get("sha256"):
            yield Problem(
                version / CARD_FILE,
                f"models '{name}' sha256",
                f"{served}, its newest version; `python -m export {pipeline.name}` proves anew",
                str(facts.get("sha256")),
            )


def _one_sam(repository: Path, pipeline: Pipeline) -> Iterator[Problem]:
    """Check that all steps that fit one SAM only were made for the same one.

    Their manifests say which one that is.
    """
    first: tuple[str, Any] | None = None
    for name in pipeline.steps:
        version = newest_version(repository / name)
        made_for = _made_for(version / MANIFEST_FILE) if version else None
        if version is None or made_for is None:
            continue
        first = first or (name, made_for)
        if made_for != first[1]:
            expected = f"{first[1]}, as that of {first[0]}; export the pipeline from one checkpoint"
            yield Problem(
                version / MANIFEST_FILE, f"settings '{SAM_SETTING}'", expected, str(made_for)
            )


def _made_for(manifest: Path) -> Any:
    """The SAM that a step was made for; None if it fits any, or its manifest cannot be read."""
    try:
        content = json.loads(manifest.read_text())
        return content["settings"].get(SAM_SETTING)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _present(file: Path) -> Iterator[Problem]:
    if not file.is_file():
        yield Problem(file, "file", "present", "absent")


def _manifest(version: Path) -> Iterator[Problem]:
    """Check that a version's files are those that its manifest lists, with the same sha256."""
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
        if role == "output" and step.leaves_outputs_open:
            expected = _with_class_count(expected, found)
        yield from _compare(file, role, expected, found)


def _declared(value: onnx.ValueInfoProto) -> Tensor:
    """An input or output of a graph in the contract's terms; a symbolic dim is -1."""
    declared = value.type.tensor_type
    dtype = CONTRACT_DTYPES.get(declared.elem_type)
    dims = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in declared.shape.dim)
    return Tensor(value.name, dtype or onnx.TensorProto.DataType.Name(declared.elem_type), dims)


def _with_class_count(expected: list[Tensor], found: list[Tensor]) -> list[Tensor]:
    """Fill in the dims behind the batch that the contract leaves open, with the network's sizes."""
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
    """The JSON object of a file; None if it holds none."""
    try:
        content = json.loads(file.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _sha256(manifest: Mapping[str, Any]) -> dict[str, str]:
    listed = manifest.get("sha256")
    return listed if isinstance(listed, dict) else {}


def _compare(
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
            text = f"'{name}' {tensor.dtype} {_show_dims(tensor.dims)}"
            yield Problem(file, role, text, "no such tensor")
            continue
        field, other = f"{role} '{name}'", there[name]
        if other.dtype != tensor.dtype:
            yield Problem(file, f"{field} data_type", tensor.dtype, other.dtype)
        if other.dims != tensor.dims:
            yield Problem(file, f"{field} dims", _show_dims(tensor.dims), _show_dims(other.dims))


def _show_dims(dims: Sequence[int]) -> str:
    return f"[{', '.join(map(str, dims))}]"
