"""Export of the S2 and S3 pipelines: `glioma_unet`, `glioma_unet_livecell` and `nuclei_unet`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cytoserve.contract import PIPELINES
from export.parity.chain import Chain
from export.parity.foregrounds import ForegroundParity, Frame, Predict, check_foreground
from export.repository.exported_step import ExportedStep
from export.repository.pipelines import ExportedPipeline, Progress
from export.unet import steps
from export.unet.reference import predict_tile_by_tile, predict_whole_frame
from training.checkpoint import CheckpointError, Recipe
from training.unet.dice import parse_resolution
from training.unet.network import load_unet
from training.unet.settings import UnetSettings

RADIUS = "radius"
"""Recipe setting with the radius of the discs that a nuclei network was trained on."""

_SCALE_SETTINGS = ("mode", "resolution", "window_scale")
"""Recipe settings that tell how large cells were in training."""


def export_glioma_unet(
    name: str, checkpoint: Path, resize_to: tuple[int, int] | None, say: Progress
) -> ExportedPipeline:
    """Export the steps of `glioma_unet` or `glioma_unet_livecell`.

    Args:
        name: name of the pipeline.
        checkpoint: checkpoint folder of `training.unet`.
        resize_to: (width, height) in pixels at which the network sees every frame; None is the
            frame's own size.
        say: callback for progress messages.

    Raises:
        CheckpointError: the checkpoint is absent, damaged or of another network.
        ParityError: a graph's answers deviate from its module's.
    """
    unet, recipe = load_unet(checkpoint)
    [network] = [step for step in PIPELINES[name].steps if step.endswith("_network")]
    say(f"exporting glioma_prepare, {network}, foreground")
    for line in scale_advice(recipe, resize_to):
        say(line)
    exported = (
        steps.glioma_prepare(),
        steps.glioma_network(network, unet, resize_to),
        steps.foreground(),
    )

    def predict(image: Frame, _: float) -> npt.NDArray[np.float32]:
        return predict_whole_frame(unet, image, resize_to)

    return semantic_pipeline(name, exported, {network: recipe}, predict)


def scale_advice(recipe: Recipe, resize_to: tuple[int, int] | None) -> list[str]:
    """Advice for frames that reach the network at another scale than in training."""
    told = {key: recipe.settings[key] for key in _SCALE_SETTINGS if key in recipe.settings}
    if not told:
        return []
    size = parse_resolution(UnetSettings(**told).whole_image_resolution)
    trained = size and (size[1], size[0])
    if resize_to == trained:
        return []
    asked = "as they are" if resize_to is None else "at {}x{}".format(*resize_to)
    scale, remedy = "of images as they are", "leaving --resize-to out"
    if trained:
        shown = "{}x{}".format(*trained)
        scale, remedy = f"of whole images resized to {shown}", f"--resize-to {shown}"
    return [
        f"note: the network was trained at the scale {scale}, and frames will reach it {asked}. "
        f"Where that is another scale of the cells, {remedy} is more accurate."
    ]


def export_nuclei_unet(checkpoint: Path, say: Progress) -> ExportedPipeline:
    """Export the steps of `nuclei_unet` from a checkpoint folder of `training.unet`.

    Raises:
        CheckpointError: the checkpoint is absent, damaged, of another network, or was not trained
            on discs around the centres of nuclei.
        ParityError: a graph's answers deviate from its module's.
    """
    unet, recipe = load_unet(checkpoint)
    radius = recipe.settings.get(RADIUS)
    if not isinstance(radius, int | float) or isinstance(radius, bool):
        raise CheckpointError(
            f"{checkpoint}: the recipe's settings hold no {RADIUS} of nuclei, found {radius!r}; "
            "nuclei_unet takes a network trained on discs around nuclei's centres: "
            "`python -m training.unet`, study S3."
        )
    say(f"exporting {', '.join(PIPELINES['nuclei_unet'].steps)}")
    exported = (
        steps.nuclei_prepare(),
        steps.nuclei_network(unet),
        steps.nuclei_stitch(),
        steps.nuclei_centres(float(radius)),
        steps.foreground(),
    )

    def predict(image: Frame, white_level: float) -> npt.NDArray[np.float32]:
        return predict_tile_by_tile(unet, image, white_level)

    return semantic_pipeline("nuclei_unet", exported, {"nuclei_network": recipe}, predict)


def semantic_pipeline(
    name: str,
    exported: tuple[ExportedStep, ...],
    recipes: Mapping[str, Recipe],
    predict: Predict,
) -> ExportedPipeline:
    """The exported steps of a semantic pipeline, to be compared with its network in torch."""
    [recipe] = recipes.values()

    def check(chain: Chain, frames: Mapping[str, npt.NDArray[Any]]) -> list[ForegroundParity]:
        return check_foreground(chain, predict, frames)

    threshold = None if recipe.threshold is None else recipe.threshold.value
    return ExportedPipeline(name, recipe.class_names, exported, recipes, "torch", check, threshold)
