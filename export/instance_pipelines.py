"""Export of the S1 pipelines: `yolo` and `yolo_resnet`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from export import steps
from export.chain import Chain
from export.chain_parity import ChainParity, check_chain
from export.exported_step import ExportedStep
from export.pipelines import ExportedPipeline, Progress
from export.yolo_reference import UltralyticsYolo
from training.checkpoint import CheckpointError, LearnedScale, Recipe
from training.classifier import CellClassifier, load_classifier
from training.scale import recorded_scale, scale_for
from training.yolo_network import SegmentationModel, load_network


def export_yolo(targets: Path, say: Progress, told: LearnedScale | None = None) -> ExportedPipeline:
    """Export the steps of `yolo` from the checkpoint folder of `training.yolo fine-tune`.

    ``told`` is the scale of a checkpoint that records none.

    Raises:
        CheckpointError: the checkpoint is absent, damaged or of another network.
        ParityError: a graph does not answer as its module does.
    """
    network, recipe = load_network(targets)
    scale = recorded_scale(recipe, targets, told)
    say("exporting yolo_prepare, yolo_targets, yolo_decode")
    exported = (
        steps.yolo_prepare(),
        steps.yolo_network("yolo_targets", network),
        steps.yolo_decode(),
    )
    recipes = {"yolo_targets": recipe}
    return instance_pipeline("yolo", recipe.class_names, exported, recipes, scale, network)


def export_yolo_resnet(
    cells: Path, classifier: Path, say: Progress, told: LearnedScale | None = None
) -> ExportedPipeline:
    """Export the steps of `yolo_resnet`.

    The frames that the classifier's crops come from are those that it is served for: where their
    cells have another size than those that the network learned from, they are scaled.

    Args:
        cells: checkpoint folder of `training.yolo general`, a network of one class.
        classifier: checkpoint folder of `training.resnet`.
        say: told what is being done.
        told: the scale of a network's checkpoint that records none.

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
    scale = scale_for(recorded_scale(network_recipe, cells, told), resnet_recipe.scale)
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
    return instance_pipeline(
        "yolo_resnet", resnet_recipe.class_names, exported, recipes, scale, network, resnet
    )


def instance_pipeline(
    name: str,
    class_names: tuple[str, ...],
    exported: tuple[ExportedStep, ...],
    recipes: Mapping[str, Recipe],
    scale: LearnedScale,
    network: SegmentationModel,
    classifier: CellClassifier | None = None,
) -> ExportedPipeline:
    """The exported steps of an instance pipeline, to be compared with its original libraries."""

    def check(chain: Chain, frames: Mapping[str, npt.NDArray[Any]]) -> list[ChainParity]:
        return check_chain(chain, UltralyticsYolo(network), classifier, frames, scale)

    chosen = next(iter(recipes.values())).threshold  # the network's comes first
    threshold = None if chosen is None else chosen.value
    return ExportedPipeline(
        name, class_names, exported, recipes, "ultralytics", check, threshold, scale
    )
