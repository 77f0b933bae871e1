"""Export of whole pipelines: every step proven, then the chain, then all versions at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy.typing as npt

from cytoserve import __version__
from cytoserve.contract import PIPELINES
from export import steps
from export.card import card_graph
from export.chain import Chain
from export.chain_parity import check_chain
from export.install import MODEL_FILE, StagedModel, Staging
from export.reference import UltralyticsYolo
from export.steps import ExportedStep
from training.checkpoint import CheckpointError, Recipe
from training.classifier import CellClassifier, load_classifier
from training.yolo_network import SegmentationModel, load_network

Progress = Callable[[str], None]
"""Told what is being done."""


@dataclass(frozen=True)
class ExportedPipeline:
    """A pipeline whose every step was proven; nothing of it is written yet."""

    name: str
    class_names: tuple[str, ...]
    steps: tuple[ExportedStep, ...]
    recipes: Mapping[str, Recipe]
    """Step -> recipe, of those that were trained."""
    network: SegmentationModel
    classifier: CellClassifier | None = None


def export_yolo(targets: Path, say: Progress) -> ExportedPipeline:
    """Export the steps of `yolo` from the checkpoint folder of `training.yolo fine-tune`.

    Raises:
        CheckpointError: the checkpoint is absent, damaged or of another network.
        ParityError: a graph does not answer as its module does.
    """
    network, recipe = load_network(targets)
    say("exporting yolo_prepare, yolo_targets, yolo_decode")
    exported = (
        steps.yolo_prepare(),
        steps.yolo_network("yolo_targets", network),
        steps.yolo_decode(),
    )
    recipes = {"yolo_targets": recipe}
    return ExportedPipeline("yolo", recipe.class_names, exported, recipes, network)


def export_yolo_resnet(cells: Path, classifier: Path, say: Progress) -> ExportedPipeline:
    """Export the steps of `yolo_resnet`.

    Args:
        cells: checkpoint folder of `training.yolo general`, a network of one class.
        classifier: checkpoint folder of `training.resnet`.
        say: told what is being done.

    Raises:
        CheckpointError: a checkpoint is absent, damaged or of another network.
        ParityError: a graph does not answer as its module does.
    """
    network, network_recipe = load_network(cells)
    if len(network_recipe.class_names) != 1:
        raise CheckpointError(
            f"{cells} has {len(network_recipe.class_names)} classes; yolo_resnet takes the "
            "one-class network of `python -m training.yolo general`."
        )
    resnet, resnet_recipe = load_classifier(classifier)
    say("exporting yolo_prepare, yolo_cells, yolo_decode, cell_crops, resnet50_cells, cell_classes")
    exported = (
        steps.yolo_prepare(),
        steps.yolo_network("yolo_cells", network),
        steps.yolo_decode(),
        steps.cell_crops(),
        steps.resnet50_cells(resnet),
        steps.cell_classes(),
    )
    recipes = {"yolo_cells": network_recipe, "resnet50_cells": resnet_recipe}
    return ExportedPipeline(
        "yolo_resnet", resnet_recipe.class_names, exported, recipes, network, resnet
    )


def install_pipeline(
    pipeline: ExportedPipeline,
    repository: Path,
    frames: Mapping[str, npt.NDArray[Any]],
    command: Sequence[str],
    say: Progress,
) -> list[Path]:
    """Stage every model, prove the chain, and only then let the versions appear.

    Args:
        pipeline: its exported steps.
        repository: the model repository, with its hand-written configs.
        frames: name -> camera frame ``[H, W]`` or ``[H, W, C]`` to prove the chain on.
        command: the command line, for the manifest.
        say: told what is being done.

    Returns:
        The version folders that are now served.

    Raises:
        ParityError: the chain does not answer as the original libraries do.
        RepositoryBusyError: another export is writing into the repository.
        OSError: it cannot be written, or the disk is full. In all cases nothing was installed.
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
                {"parity": step.parity, "recipe": _recipe(pipeline, step.name), **origin},
            )
            for step in pipeline.steps
        ]
        say(f"comparing the chain with ultralytics on {len(frames)} frames")
        files = {model.name: model.folder / MODEL_FILE for model in staged}
        chain = Chain(repository, pipeline.name, files)
        reference = UltralyticsYolo(pipeline.network)
        figures = check_chain(chain, reference, pipeline.classifier, frames)
        card = _card(pipeline, staging, staged)
        parity = [dataclasses.asdict(figure) for figure in figures]
        staged.append(staging.add_ensemble(pipeline.name, card, {"parity": parity, **origin}))
        # The card comes last: a client that reads the new one is served by the new models.
        staged.append(staging.add_graph(PIPELINES[pipeline.name].card, card_graph(card), origin))
        return staging.install(staged)


def _card(
    pipeline: ExportedPipeline, staging: Staging, staged: Sequence[StagedModel]
) -> dict[str, Any]:
    """What the pipeline says of itself, see `cytoserve.contract.CARD_OUTPUT`."""
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
    }


def _recipe(pipeline: ExportedPipeline, step: str) -> dict[str, Any] | None:
    """The recipe of a step's network as JSON values; None for a step without one."""
    recipe = pipeline.recipes.get(step)
    return recipe.model_dump(mode="json") if recipe else None
