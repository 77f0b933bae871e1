"""A bundle: a model repository that holds what is exported, and nothing else.

``tritonserver --model-repository`` loads every folder that it finds, and ends if one of them has no
version. A model repository that is being worked on has configurations of all pipelines, so NVIDIA's
plain command cannot start it. It starts a bundle, which containers mount.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from cytoserve.contract import CUDA_GRAPH, PIPELINES, Pipeline
from cytoserve.model_config import (
    CONFIG_FILE,
    VARIANT_FOLDER,
    config_file,
    files_of,
    read_config,
    versions,
)


class NotExportedError(ValueError):
    """A pipeline is to be bundled that is not exported, or not for that variant."""


def exported_pipelines(repository: Path) -> list[str]:
    """Return the names of the pipelines of which ``repository`` holds an exported version."""
    return [name for name in PIPELINES if versions(repository / name)]


def write_bundle(
    repository: Path, out: Path, pipelines: Sequence[str], variant: str | None = None
) -> list[str]:
    """Copy the newest version of every model of these pipelines.

    Without ``variant``, the configurations of those variants are copied too that serve the same
    models in another way, so that ``--model-config-name`` can choose one. With ``variant``, its
    configurations become the default ones.

    Args:
        repository: model repository with exported versions.
        out: folder that does not exist or is empty. It appears complete or not at all.
        pipelines: names of pipelines.
        variant: name of a variant of the contract.

    Returns:
        Names of the copied models.

    Raises:
        NotExportedError: a model has no version, or lacks the variant's graph.
    """
    unfinished = out.with_name(f"{out.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    copied: dict[str, None] = {}
    try:
        for pipeline in (PIPELINES[name] for name in pipelines):
            for model in (*pipeline.steps_of(variant), pipeline.card, pipeline.name):
                if model not in copied:
                    newest = _newest(repository, model, pipeline, variant)
                    _copy_model(newest, unfinished / model, pipeline, variant)
                    copied[model] = None
        unfinished.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return list(copied)


def _newest(repository: Path, model: str, pipeline: Pipeline, variant: str | None) -> Path:
    """Return the folder of a model's newest version, which holds what the server loads."""
    numbers = versions(repository / model)
    folder = repository / model / (str(numbers[-1]) if numbers else "<version>")
    files = files_of(read_config(config_file(repository / model, variant))) or ("",)
    if not any((folder / file).exists() for file in files):
        made_alone = bool(numbers and variant and variant not in pipeline.variants)
        # Variant tensorrt serves that graph too.
        command = CUDA_GRAPH.name if files[-1] == CUDA_GRAPH.graph else variant
        raise NotExportedError(
            f"{pipeline.name} is not exported{f' for variant {variant}' if made_alone else ''}: "
            f"{folder / files[-1]} is missing. Make it with: "
            f"python -m export {command if made_alone else pipeline.name}"
        )
    return folder


def _copy_model(newest: Path, target: Path, pipeline: Pipeline, variant: str | None) -> None:
    """Copy one version of a model with its configuration."""
    source = newest.parent
    shutil.copytree(newest, target / newest.name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(config_file(source, variant), target / CONFIG_FILE)
    for other in sorted((source / VARIANT_FOLDER).glob("*.pbtxt")) if variant is None else ():
        # A variant that replaces the steps of a pipeline needs models that are not copied.
        if other.stem not in pipeline.variants:
            (target / VARIANT_FOLDER).mkdir(exist_ok=True)
            shutil.copy(other, target / VARIANT_FOLDER)
