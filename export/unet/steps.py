"""Export of the S2 and S3 pipelines: `glioma_unet`, `glioma_unet_livecell` and `nuclei_unet`.

Each of their steps is its module and the cases of its parity check.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cytoserve.contract import PIPELINES, PROBABILITY_THRESHOLD, TILE_MARGIN, TILE_SIZE, TILE_STEP
from export.parity.chain import Chain
from export.parity.foregrounds import ForegroundParity, Frame, Predict, check_foreground
from export.parity.steps import Case, ExportedStep, camera_frame, export_step, pixels
from export.repository.pipelines import ExportedPipeline, Progress
from export.unet.network import (
    TILE_CHUNK,
    Foreground,
    NucleiCentres,
    TileNetwork,
    WholeFrameNetwork,
)
from export.unet.reference import predict_tile_by_tile, predict_whole_frame
from export.unet.tiles import PrepareTiles, StitchTiles, tile_count
from training.checkpoint import CheckpointError, Recipe
from training.preprocessing.normalise import PrepareWholeFrame
from training.unet.network import UNet, load_unet
from training.unet.settings import UnetSettings, parse_resolution

RADIUS = "radius"
"""Recipe setting with the radius of the discs that a nuclei network was trained on."""

_SCALE_SETTINGS = ("mode", "resolution", "window_scale")
"""Recipe settings that tell how large cells were in training."""

WHITE = 3000.0
"""White level of random frames, below their brightest values."""

SIZES = {
    "odd": (97, 330),  # used for tracing, which would fold the sides of a 1x1 frame
    "1x1": (1, 1),
    "one row": (1, 700),
    "one column": (300, 1),
    "one tile step": (TILE_STEP, TILE_STEP),
    "a pixel more": (TILE_STEP + 1, 2 * TILE_STEP + 1),
    "several tiles": (2 * TILE_STEP, 5 * TILE_STEP),
    "640x480": (480, 640),
}
"""Sizes (H, W) of frames, by what they test."""


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
        glioma_prepare(),
        glioma_network(network, unet, resize_to),
        foreground(),
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
        nuclei_prepare(),
        nuclei_network(unet),
        nuclei_stitch(),
        nuclei_centres(float(radius)),
        foreground(),
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


def glioma_prepare() -> ExportedStep:
    """The step that normalises a whole frame and raises its contrast."""
    return export_step("glioma_prepare", PrepareWholeFrame(), _frames())


def glioma_network(name: str, unet: UNet, resize_to: tuple[int, int] | None = None) -> ExportedStep:
    """A U-Net on whole frames under the step name `glioma_network` or `glioma_livecell_network`.

    ``resize_to`` (width, height): see `export.unet.network.WholeFrameNetwork`.
    """
    shapes = {
        "odd": (1, 97, 130),  # used for tracing
        "1x1": (1, 1, 1),
        "one row": (1, 1, 150),
        "one column": (1, 150, 1),
        "batch of 2": (2, 64, 96),
    }
    cases = [Case(title, (pixels(n, 3, h, w),)) for title, (n, h, w) in shapes.items()]
    module = WholeFrameNetwork(unet, resize_to)
    return export_step(name, module, cases, settings={"resize_to": resize_to})


def nuclei_prepare() -> ExportedStep:
    """The step that cleans a frame and cuts it into tiles."""
    white = torch.tensor([WHITE])
    cases = [Case(case.name, (*case.inputs, white)) for case in _frames()]
    return export_step("nuclei_prepare", PrepareTiles(), cases)


def nuclei_network(unet: UNet) -> ExportedStep:
    """A U-Net on tiles, which takes them in chunks."""
    cases = [
        Case(f"{count} tiles", (pixels(count, 3, TILE_SIZE, TILE_SIZE),))
        for count in (2, 1, TILE_CHUNK + 1)
    ]
    return export_step("nuclei_network", TileNetwork(unet), cases, chunk=TILE_CHUNK)


def nuclei_stitch() -> ExportedStep:
    """The step that blends tiles into one frame."""
    cases = []
    for title, size in SIZES.items():
        frame_size = torch.tensor(size, dtype=torch.int32)
        tiles = pixels(int(tile_count(frame_size).prod()), TILE_SIZE, TILE_SIZE)
        cases.append(Case(title, (tiles, frame_size)))
    return export_step("nuclei_stitch", StitchTiles(), cases)


def nuclei_centres(radius: float) -> ExportedStep:
    """The step that finds nuclei of a ``radius`` in frame pixels."""
    half, none = torch.tensor([PROBABILITY_THRESHOLD]), torch.tensor([1.0])
    cases = [
        *(Case(title, (_blobs(*size), half)) for title, size in SIZES.items()),
        Case("no centre", (_blobs(90, 70), none)),
        Case("one plateau", (torch.full((1, TILE_MARGIN, 40), 255, dtype=torch.uint8), half)),
    ]
    module = NucleiCentres(radius)
    return export_step("nuclei_centres", module, cases, settings={"radius": radius})


def foreground() -> ExportedStep:
    """The step that splits a probability by a threshold."""
    cases = [
        Case(f"{title} at {threshold}", (pixels(1, *size), torch.tensor([threshold])))
        for title, size in SIZES.items()
        for threshold in (PROBABILITY_THRESHOLD, 51 / 255, 0.0, 1.0, 2.0)
    ]
    return export_step("foreground", Foreground(), cases)


def _frames() -> list[Case]:
    cases = [
        Case(f"{title}, {channels} channels", (camera_frame(*size, channels),))
        for title, size in SIZES.items()
        for channels in (1, 3)
    ]
    saturated = torch.full((50, 60, 3), 65535, dtype=torch.int32)
    black = torch.zeros((60, 50, 1), dtype=torch.int32)
    return [*cases, Case("saturated", (saturated,)), Case("black", (black,))]


def _blobs(height: int, width: int) -> Tensor:
    """A smooth probability uint8 ``[1, H, W]`` with peaks of many heights, some at the edges."""
    rows, columns = torch.arange(height)[:, None] / 7, torch.arange(width) / 9
    waves = torch.sin(rows + torch.sin(columns / 5)) * torch.cos(columns + torch.sin(rows / 4))
    return torch.round(waves.clamp(min=0) * 255).to(torch.uint8)[None]
