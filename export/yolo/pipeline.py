"""Export of the pipeline `yolo`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from export.parity.chain import Chain
from export.parity.instances import ChainParity, Classify, check_chain
from export.repository.exported_step import ExportedStep
from export.repository.pipelines import ExportedPipeline, Progress
from export.yolo import steps
from export.yolo.reference import UltralyticsYolo
from training.checkpoint import LearnedScale, Recipe
from training.datasets.scale import recorded_scale
from training.yolo.network import SegmentationModel, load_network


def export_yolo(targets: Path, say: Progress, told: LearnedScale | None = None) -> ExportedPipeline:
    """Export the steps of `yolo` from the checkpoint folder of `training.yolo fine-tune`.

    ``told`` is the scale to use for a checkpoint that records none.

    Raises:
        CheckpointError: the checkpoint is absent, damaged or of another network.
        ParityError: a graph's answers deviate from its module's.
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
    return yolo_pipeline("yolo", recipe.class_names, exported, recipes, scale, network)


def yolo_pipeline(
    name: str,
    class_names: tuple[str, ...],
    exported: tuple[ExportedStep, ...],
    recipes: Mapping[str, Recipe],
    scale: LearnedScale,
    network: SegmentationModel,
    classify: Classify | None = None,
) -> ExportedPipeline:
    """The exported steps of a pipeline that begins with YOLO, to be compared with ultralytics."""

    def check(chain: Chain, frames: Mapping[str, npt.NDArray[Any]]) -> list[ChainParity]:
        return check_chain(chain, UltralyticsYolo(network), classify, frames, scale)

    chosen = next(iter(recipes.values())).threshold  # the network's recipe comes first
    threshold = None if chosen is None else chosen.value
    return ExportedPipeline(
        name, class_names, exported, recipes, "ultralytics", check, threshold, scale
    )
