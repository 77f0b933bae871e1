"""Export of the S4 pipeline `maskrcnn`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt
from torchvision.models.detection import MaskRCNN

from export.maskrcnn import steps
from export.maskrcnn.reference import TorchvisionMaskRcnn
from export.parity.chain import Chain
from export.parity.instances import ChainParity, check_chain
from export.repository.exported_step import ExportedStep
from export.repository.pipelines import ExportedPipeline, Progress
from training.checkpoint import LearnedScale, Recipe
from training.datasets.scale import recorded_scale
from training.maskrcnn.network import load_maskrcnn


def export_maskrcnn(
    checkpoint: Path, say: Progress, told: LearnedScale | None = None
) -> ExportedPipeline:
    """Export the steps of `maskrcnn` from the checkpoint folder of `training.maskrcnn`.

    ``told`` is the scale to use for a checkpoint that records none.

    Raises:
        CheckpointError: the checkpoint is absent, damaged or of another network.
        ParityError: a graph's answers deviate from its module's.
    """
    network, recipe = load_maskrcnn(checkpoint)
    scale = recorded_scale(recipe, checkpoint, told)
    say("exporting maskrcnn_prepare, maskrcnn_network, maskrcnn_cells")
    exported = (
        steps.maskrcnn_prepare(),
        steps.maskrcnn_network(network),
        steps.maskrcnn_cells(),
    )
    return maskrcnn_pipeline(exported, recipe, scale, network)


def maskrcnn_pipeline(
    exported: tuple[ExportedStep, ...], recipe: Recipe, scale: LearnedScale, network: MaskRCNN
) -> ExportedPipeline:
    """The exported steps of `maskrcnn`, to be compared with torchvision's own forward."""

    def check(chain: Chain, frames: Mapping[str, npt.NDArray[Any]]) -> list[ChainParity]:
        return check_chain(chain, TorchvisionMaskRcnn(network), None, frames, scale)

    recipes = {"maskrcnn_network": recipe}
    threshold = None if recipe.threshold is None else recipe.threshold.value
    return ExportedPipeline(
        "maskrcnn", recipe.class_names, exported, recipes, "torchvision", check, threshold, scale
    )
