"""Installing whole pipelines: every step is proven, then the chain, then all versions appear."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx
from onnx import helper

from cytoserve import __version__
from cytoserve.contract import CARD_INPUT, CARD_OUTPUT, PIPELINES, STEPS
from export.graphs.files import OPSET
from export.parity.chain import Chain
from export.repository.exported_step import ExportedStep
from export.repository.install import MODEL_FILE, StagedModel, Staging
from export.repository.merged import export_merged
from training.checkpoint import LearnedScale, Recipe


def card_graph(content: dict[str, Any]) -> onnx.ModelProto:
    """Build a graph that answers page 0 with ``content`` as JSON.

    Triton passes neither class names nor hashes of model files to a client. A model whose only
    output is a constant string does, on every Triton and in the protocol that the client already
    speaks.

    A graph without any input would do as well, but Triton's requests carry at least one.
    """
    pages = helper.make_tensor(
        "pages", onnx.TensorProto.STRING, [1], [json.dumps(content, sort_keys=True).encode()]
    )
    graph = helper.make_graph(
        [helper.make_node("Gather", ["pages", CARD_INPUT.name], [CARD_OUTPUT.name])],
        "card",
        [helper.make_tensor_value_info(CARD_INPUT.name, onnx.TensorProto.INT64, [1])],
        [helper.make_tensor_value_info(CARD_OUTPUT.name, onnx.TensorProto.STRING, [1])],
        [pages],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


Progress = Callable[[str], None]
"""Callback for progress messages: it is called with what is being done."""


@dataclass(frozen=True)
class ExportedPipeline:
    """A pipeline with every step proven; nothing of it is written yet."""

    name: str
    class_names: tuple[str, ...]
    steps: tuple[ExportedStep, ...]
    recipes: Mapping[str, Recipe]
    """Step -> recipe, for the steps that were trained."""
    reference: str
    """Name of the library that the chain is compared with."""
    check: Callable[[Chain, Mapping[str, npt.NDArray[Any]]], Sequence[Any]]
    """Compares the chain with the reference on frames, given by name.

    It returns dataclasses of figures, or raises `ParityError`."""
    threshold: float | None = None
    """Score or probability threshold that the training chose."""
    scale: LearnedScale | None = None
    """Scale at which an instance pipeline sees frames; None for other pipelines."""


def install_pipeline(
    pipeline: ExportedPipeline,
    repository: Path,
    frames: Mapping[str, npt.NDArray[Any]],
    command: Sequence[str],
    say: Progress,
) -> list[Path]:
    """Stage every model, prove the chain, and only then let the versions appear.

    Args:
        pipeline: the pipeline with its exported steps.
        repository: the model repository, with its configurations.
        frames: name -> camera frame ``[H, W]`` or ``[H, W, C]`` to prove the chain on.
        command: the command line, for the manifest.
        say: callback for progress messages.

    Returns:
        The version folders that are now served.

    Raises:
        ParityError: the chain's answers deviate from its reference's.
        RepositoryBusyError: another export is writing into the repository.
        OSError: the repository cannot be written, or the disk is full. After any of these errors,
            nothing has been installed.
    """
    origin = {
        "command": list(command),
        "cytoserve": __version__,
        "exported": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    with Staging(repository) as staging:
        staged = [
            staging.add_graph(
                step.name,
                step.graph,
                _step_manifest(pipeline, step) | origin,
            )
            for step in pipeline.steps
        ]
        say(f"comparing the chain with {pipeline.reference} on {len(frames)} frames")
        files = {model.name: model.folder / MODEL_FILE for model in staged}
        chain = Chain(repository, pipeline.name, files)
        figures = pipeline.check(chain, frames)
        if merged := PIPELINES[pipeline.name].merged_step:
            say(f"joining the steps to {merged}")
            graphs = {step.name: step.graph for step in pipeline.steps}
            joined = export_merged(STEPS[merged], chain, graphs, frames, pipeline.scale)
            manifest = _step_manifest(pipeline, joined) | origin
            staged.append(staging.add_graph(merged, joined.graph, manifest))
        card = _card(pipeline, staging, staged)
        parity = [dataclasses.asdict(figure) for figure in figures]
        staged.append(staging.add_ensemble(pipeline.name, card, {"parity": parity, **origin}))
        # The card comes last: a client that reads the new one is served by the new models.
        staged.append(staging.add_graph(PIPELINES[pipeline.name].card, card_graph(card), origin))
        return staging.install(staged)


def _step_manifest(pipeline: ExportedPipeline, step: ExportedStep) -> dict[str, Any]:
    """Manifest entries of a step, without those of the export that made it."""
    settings = dict(step.settings)
    recipe = _recipe(pipeline, step.name)
    return {"parity": step.parity, "settings": settings, "recipe": recipe}


def _card(
    pipeline: ExportedPipeline, staging: Staging, staged: Sequence[StagedModel]
) -> dict[str, Any]:
    """The model card of a pipeline, see `cytoserve.contract.CARD_OUTPUT`."""
    return {
        "pipeline": pipeline.name,
        "class_names": list(pipeline.class_names),
        "models": {
            model.name: {
                "version": int(staging.target(model).name),
                "sha256": model.sha256[MODEL_FILE],
            }
            for model in staged
        },
        "recipes": {name: _recipe(pipeline, name) for name in pipeline.recipes},
        "threshold": pipeline.threshold,
        "scale": None if pipeline.scale is None else pipeline.scale.model_dump(),
    }


def _recipe(pipeline: ExportedPipeline, step: str) -> dict[str, Any] | None:
    """The recipe of a step's network as JSON values; None for a step without one."""
    recipe = pipeline.recipes.get(step)
    return recipe.model_dump(mode="json") if recipe else None
