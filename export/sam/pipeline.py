"""Export of the pipeline `sam_prompt`, and helpers for every pipeline with a SAM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
from segment_anything.modeling import Sam

from cytoserve.files import file_sha256
from export.parity.chain import Chain
from export.repository.exported_step import ExportedStep
from export.repository.install import SAM_SETTING
from export.repository.pipelines import ExportedPipeline, Progress
from export.sam import steps
from export.sam.parity import SamParity, check_cells, check_prompts
from training.checkpoint import CheckpointError, LearnedScale, Recipe, new_recipe
from training.sam.network import ARCHITECTURE, load_published, load_sam

CLASS_NAMES = ("cell",)
"""Class name of a published SAM, which was trained without classes."""


class SamSizesError(ValueError):
    """Steps of different SAMs, which cannot work together."""


def read_sam(path: Path, size: str | None) -> tuple[Sam, Recipe]:
    """A SAM from the folder of `python -m training.sam`, or from a published ``.pth`` file.

    Args:
        path: folder or file.
        size: size of a published SAM; None for a folder, which records its own.

    Raises:
        CheckpointError: the checkpoint is absent, damaged or of another network or size, or
            ``size`` is missing or superfluous.
    """
    if path.is_dir():
        if size is not None:
            raise CheckpointError(
                f"{path} is the folder of a checkpoint, whose recipe tells its size; leave out "
                f"--sam-size {size}, which is for a published file."
            )
        return load_sam(path)
    if size is None:
        raise CheckpointError(
            f"{path} is a file, as segment-anything publishes its checkpoints, and does not tell "
            "its size; add --sam-size, vit_h, vit_l or vit_b."
        )
    sam = load_published(path, size)
    recipe = new_recipe(
        architecture=ARCHITECTURE,
        class_names=CLASS_NAMES,
        settings={"size": size},
        data={},
        initialised_from=f"{path.name}@{file_sha256(path)}",
        seed=0,
        metrics={},
    )
    return sam, recipe


def export_sam_prompt(
    checkpoint: Path, size: str | None, half: bool, say: Progress
) -> ExportedPipeline:
    """Export the steps of `sam_prompt`.

    Args:
        checkpoint: folder or file, see :func:`read_sam`.
        size: size of a published SAM, see :func:`read_sam`.
        half: let the encoder compute in float16.
        say: callback for progress messages.

    Raises:
        CheckpointError: the checkpoint is absent, damaged or of another network.
        ParityError: a graph's answers deviate from its module's.
    """
    sam, recipe = read_sam(checkpoint, size)
    say("exporting sam_prepare, sam_encoder, sam_decoder")
    exported = (steps.sam_prepare(sam), steps.sam_encoder(sam, half), steps.sam_decoder(sam))
    return prompt_pipeline(exported, sam, recipe, half)


def prompt_pipeline(
    exported: tuple[ExportedStep, ...], sam: Sam, recipe: Recipe, half: bool = False
) -> ExportedPipeline:
    """The exported steps of `sam_prompt`, to be compared with segment-anything."""
    require_one_sam(exported)

    def check(chain: Chain, frames: Mapping[str, npt.NDArray[Any]]) -> list[SamParity]:
        return check_prompts(chain, sam, frames, half)

    recipes = {"sam_encoder": recipe, "sam_decoder": recipe}
    return ExportedPipeline(
        "sam_prompt", recipe.class_names, exported, recipes, "segment-anything", check
    )


def cells_pipeline(
    exported: tuple[ExportedStep, ...],
    sam: Sam,
    recipe: Recipe,
    network_recipe: Recipe,
    scale: LearnedScale,
    half: bool = False,
) -> ExportedPipeline:
    """The exported steps of `maskrcnn_sam`, to be compared with segment-anything."""
    require_one_sam(exported)

    def check(chain: Chain, frames: Mapping[str, npt.NDArray[Any]]) -> list[SamParity]:
        return check_cells(chain, sam, frames, scale, half)

    recipes = {"maskrcnn_network": network_recipe, "sam_encoder": recipe, "sam_decoder": recipe}
    # A cell's score is SAM's, but Mask R-CNN's score decides which cells become prompts.
    threshold = None if network_recipe.threshold is None else network_recipe.threshold.value
    return ExportedPipeline(
        "maskrcnn_sam",
        network_recipe.class_names,
        exported,
        recipes,
        "segment-anything",
        check,
        threshold,
        scale,
    )


def require_one_sam(exported: Sequence[ExportedStep]) -> None:
    """Refuse steps that were made for different SAMs.

    Raises:
        SamSizesError: two steps differ; the message names them and what they were made for.
    """
    made_for = {
        step.name: step.settings[SAM_SETTING] for step in exported if SAM_SETTING in step.settings
    }
    first, *others = made_for
    for other in others:
        if made_for[other] != made_for[first]:
            raise SamSizesError(
                f"the steps of a pipeline are of one SAM; {first} is for {made_for[first]} and "
                f"{other} for {made_for[other]}. Export all of them from one checkpoint."
            )
