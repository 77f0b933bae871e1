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
from export.reference import UltralyticsYolo
from training.checkpoint import CheckpointError, Recipe
from training.classifier import CellClassifier, load_classifier
from training.yolo_network import SegmentationModel, load_network


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
    return instance_pipeline("yolo", recipe.class_names, exported, recipes, network)


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
    return instance_pipeline(
        "yolo_resnet", resnet_recipe.class_names, exported, recipes, network, resnet
    )


def instance_pipeline(
    name: str,
    class_names: tuple[str, ...],
    exported: tuple[ExportedStep, ...],
    recipes: Mapping[str, Recipe],
    network: SegmentationModel,
    classifier: CellClassifier | None = None,
) -> ExportedPipeline:
    """The exported steps of an instance pipeline, to be compared with its original libraries."""

    def check(chain: Chain, frames: Mapping[str, npt.NDArray[Any]]) -> list[ChainParity]:
        return check_chain(chain, UltralyticsYolo(network), classifier, frames)

    return ExportedPipeline(name, class_names, exported, recipes, "ultralytics", check)
