"""Export of whole pipelines: every step proven, then the chain, then all versions at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
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

Frames = Mapping[str, npt.NDArray[Any]]
Progress = Callable[[str], None]


def export_yolo(
    repository: Path, targets: Path, frames: Frames, command: Sequence[str], say: Progress
) -> list[Path]:
    """Export pipeline `yolo` from the checkpoint of a fine-tuned network.

    Args:
        repository: the model repository, with its hand-written configs.
        targets: checkpoint folder of `training.yolo fine-tune`.
        frames: name -> camera frame ``[H, W]`` or ``[H, W, C]``, for the parity of the chain.
        command: the command line, for the manifest.
        say: told what is being done.

    Returns:
        The version folders that are now served.

    Raises:
        CheckpointError, ParityError: nothing was installed.
    """
    network, recipe = load_network(targets)
    say("exporting yolo_prepare, yolo_targets, yolo_decode")
    exported = [
        steps.yolo_prepare(),
        steps.yolo_network("yolo_targets", network),
        steps.yolo_decode(),
    ]
    recipes = {"yolo_targets": recipe}
    return _install(
        "yolo", repository, exported, recipes, recipe, network, None, frames, command, say
    )


def export_yolo_resnet(
    repository: Path,
    cells: Path,
    classifier: Path,
    frames: Frames,
    command: Sequence[str],
    say: Progress,
) -> list[Path]:
    """Export pipeline `yolo_resnet` from a one-class network and a classifier.

    Args:
        repository: the model repository, with its hand-written configs.
        cells: checkpoint folder of `training.yolo general`.
        classifier: checkpoint folder of `training.resnet`.
        frames, command, say: as for `export_yolo`.

    Returns:
        The version folders that are now served.

    Raises:
        CheckpointError, ParityError: nothing was installed.
    """
    network, network_recipe = load_network(cells)
    if len(network_recipe.class_names) != 1:
        raise CheckpointError(
            f"{cells} has {len(network_recipe.class_names)} classes; yolo_resnet takes the "
            "one-class network of `python -m training.yolo general`."
        )
    resnet, resnet_recipe = load_classifier(classifier)
    say("exporting yolo_prepare, yolo_cells, yolo_decode, cell_crops, resnet50_cells, cell_classes")
    exported = [
        steps.yolo_prepare(),
        steps.yolo_network("yolo_cells", network),
        steps.yolo_decode(),
        steps.cell_crops(),
        steps.resnet50_cells(resnet),
        steps.cell_classes(),
    ]
    recipes = {"yolo_cells": network_recipe, "resnet50_cells": resnet_recipe}
    return _install(
        "yolo_resnet",
        repository,
        exported,
        recipes,
        resnet_recipe,
        network,
        resnet,
        frames,
        command,
        say,
    )


def _install(
    pipeline: str,
    repository: Path,
    exported: Sequence[ExportedStep],
    recipes: Mapping[str, Recipe],
    classes: Recipe,
    network: SegmentationModel,
    classifier: CellClassifier | None,
    frames: Frames,
    command: Sequence[str],
    say: Progress,
) -> list[Path]:
    """Stage every model, prove the chain, and only then let the versions appear."""
    common = {
        "command": list(command),
        "cytoserve": __version__,
        "exported": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    with Staging(repository) as staging:
        staged = []
        for step in exported:
            recipe = recipes[step.name].model_dump(mode="json") if step.name in recipes else None
            manifest = {"parity": step.parity, "recipe": recipe, **common}
            staged.append(staging.add(step.name, step.graph, manifest))
        say(f"comparing the chain with ultralytics on {len(frames)} frames")
        files = {model.name: model.folder / MODEL_FILE for model in staged}
        chain = Chain(repository, pipeline, files)
        parity = check_chain(chain, UltralyticsYolo(network), classifier, frames)
        card = _card(pipeline, staging, staged, recipes, classes)
        figures = {"parity": [dataclasses.asdict(figure) for figure in parity], **common}
        staged.append(staging.add(pipeline, None, {**figures, "card": card}))
        # The card comes last: a client that reads the new one is served by the new models.
        staged.append(staging.add(PIPELINES[pipeline].card, card_graph(card), common))
        return [staging.install(model) for model in staged]


def _card(
    pipeline: str,
    staging: Staging,
    staged: Sequence[StagedModel],
    recipes: Mapping[str, Recipe],
    classes: Recipe,
) -> dict[str, Any]:
    return {
        "pipeline": pipeline,
        "class_names": list(classes.class_names),
        "models": {
            model.name: {
                "version": staging.version_of(model),
                "sha256": model.sha256[MODEL_FILE],
            }
            for model in staged
        },
        "recipes": {name: recipe.model_dump(mode="json") for name, recipe in recipes.items()},
    }
