"""Export of the pipelines that join two model families: `yolo_resnet` and `maskrcnn_sam`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from cytoserve.contract import PIPELINES
from export.maskrcnn import steps as maskrcnn_steps
from export.repository.pipelines import ExportedPipeline, Progress
from export.resnet import steps as resnet_steps
from export.resnet.reference import classify_cells
from export.sam import steps as sam_steps
from export.yolo import steps as yolo_steps
from training.checkpoint import CheckpointError, LearnedScale
from training.datasets.scale import recorded_scale, scale_for
from training.maskrcnn.network import load_maskrcnn
from training.resnet.network import load_classifier
from training.yolo.network import load_network


def export_yolo_resnet(
    cells: Path, classifier: Path, say: Progress, told: LearnedScale | None = None
) -> ExportedPipeline:
    """Export the steps of `yolo_resnet`.

    The served frames are taken to be like those that the classifier's crops come from. Where their
    cells differ in size from those that the network learned from, the frames are scaled.

    Args:
        cells: checkpoint folder of `training.yolo general`, a network of one class.
        classifier: checkpoint folder of `training.resnet`.
        say: callback for progress messages.
        told: scale of a network whose checkpoint records none.

    Raises:
        CheckpointError: a checkpoint is absent, damaged or of another network.
        ParityError: a graph's answers deviate from its module's.
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
        yolo_steps.yolo_prepare(),
        yolo_steps.yolo_network("yolo_cells", network),
        yolo_steps.yolo_decode(),
        resnet_steps.cell_crops(),
        resnet_steps.resnet50_cells(resnet),
        resnet_steps.cell_classes(),
    )
    recipes = {"yolo_cells": network_recipe, "resnet50_cells": resnet_recipe}
    classify = partial(classify_cells, resnet)
    return yolo_steps.yolo_pipeline(
        "yolo_resnet", resnet_recipe.class_names, exported, recipes, scale, network, classify
    )


def export_maskrcnn_sam(
    maskrcnn: Path,
    checkpoint: Path,
    size: str | None,
    half: bool,
    say: Progress,
    told: LearnedScale | None = None,
) -> ExportedPipeline:
    """Export the steps of `maskrcnn_sam`.

    Args:
        maskrcnn: checkpoint folder of `training.maskrcnn`.
        checkpoint: folder of a SAM checkpoint, or a published ``.pth`` file of SAM.
        size: size of a published SAM; None for a folder, which records its own.
        half: let SAM's encoder compute in float16.
        say: callback for progress messages.
        told: scale of a Mask R-CNN whose checkpoint records none.

    Raises:
        CheckpointError: a checkpoint is absent, damaged or of another network.
        ParityError: a graph's answers deviate from its module's.
    """
    network, network_recipe = load_maskrcnn(maskrcnn)
    scale = recorded_scale(network_recipe, maskrcnn, told)
    sam, recipe = sam_steps.read_sam(checkpoint, size)
    names = [name for name in PIPELINES["maskrcnn_sam"].steps if name != "cell_labels"]
    say(f"exporting {', '.join(names)}")
    exported = (
        maskrcnn_steps.maskrcnn_prepare(),
        maskrcnn_steps.maskrcnn_network(network),
        maskrcnn_steps.maskrcnn_cells(),
        sam_steps.sam_prepare_tiles(sam),
        sam_steps.sam_encoder(sam, half),
        sam_steps.sam_box_prompts(),
        sam_steps.sam_decoder(sam),
        sam_steps.sam_cells(),
    )
    return sam_steps.cells_pipeline(exported, sam, recipe, network_recipe, scale, half)
