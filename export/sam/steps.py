"""Export of the pipeline `sam_prompt`, every step of SAM, and what all pipelines with a SAM share.

A step is its module, an example to trace, and the cases of its parity check.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from segment_anything.modeling import Sam
from torch import Tensor

from cytoserve.contract import (
    COARSE_BOXES,
    COARSE_MASKS,
    MASK_SIZE,
    OVERLAP_THRESHOLD,
    POINT_LABELS,
    PROMPT_LABELS,
    PROMPT_POINTS,
    SAM_MASK_SIZE,
)
from cytoserve.files import file_sha256
from export.parity.chain import Chain
from export.parity.steps import (
    FLOAT_TOLERANCE,
    Case,
    ExportedStep,
    camera_frame,
    export_step,
    generator,
    pixels,
)
from export.repository.install import SAM_SETTING
from export.repository.pipelines import ExportedPipeline, Progress
from export.sam.network import CHUNK, ImageEncoder, SamBoxPrompts, SamCells, SamDecoder
from export.sam.parity import SamParity, check_cells, check_prompts
from export.sam.prepare import OPAQUE, SamPrepare, SamPrepareTiles
from training.checkpoint import CheckpointError, LearnedScale, Recipe, new_recipe
from training.sam.network import ARCHITECTURE, load_published, load_sam

CLASS_NAMES = ("cell",)
"""Class name of a published SAM, which was trained without classes."""

HALF_TOLERANCE = 0.02
"""Largest deviation of a float16 encoder's embedding, as a share of its largest magnitude."""


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
    exported = (sam_prepare(sam), sam_encoder(sam, half), sam_decoder(sam))
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
        network_recipe.appearance,
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


def describe_sam(sam: Sam) -> dict[str, Any]:
    """Properties in which the encoder, its input and the decoder of one SAM must agree."""
    encoder = sam.image_encoder
    return {
        "side": encoder.img_size,
        "embedding": [sam.mask_decoder.transformer_dim, *sam.prompt_encoder.image_embedding_size],
        "encoder": [len(encoder.blocks), encoder.patch_embed.proj.out_channels],
    }


def sam_prepare(sam: Sam) -> ExportedStep:
    """The step that turns a frame into SAM's input."""
    side = sam.image_encoder.img_size
    shapes = {
        "odd grey": (97, 330, 1),  # used for tracing, which would fold the sides of a 1x1 frame
        "odd RGB": (97, 33, 3),
        "1x1": (1, 1, 1),
        "one row": (1, 700, 1),
        "one column, no content": (3 * side, 1, 1),
        "as SAM sees it": (side, side, 3),
        "larger": (side + 2, side + 301, 1),
    }
    cases = [Case(name, (camera_frame(*shape),)) for name, shape in shapes.items()]
    cases.append(Case("16 bit", (camera_frame(60, 50, 1) * 16,)))
    settings = {SAM_SETTING: describe_sam(sam)}
    return export_step("sam_prepare", SamPrepare(sam), cases, settings=settings)


def sam_prepare_tiles(sam: Sam) -> ExportedStep:
    """The step that turns a frame into SAM's input, in tiles where the frame is large."""
    side = sam.image_encoder.img_size
    cases = [
        Case(name, (camera_frame(*shape), torch.tensor([scale]), torch.tensor([overlap])))
        for name, shape, scale, overlap in (
            (
                "odd grey, 2 x 3 tiles",
                (side + side // 2, 2 * side + 1, 1),
                1.0,
                40.0,
            ),  # used for tracing
            ("whole: SAM sees it larger", (97, 33, 3), 0.5, 40.0),
            ("whole: fit", (2 * side, side + 7, 1), 0.5, 40.0),
            ("1x1", (1, 1, 1), 1.0, 0.0),
            ("one row", (1, 2 * side + 3, 1), 1.0, 40.0),
            ("scaled, the most overlap", (side, side + 1, 3), 1.7, 1e6),
        )
    ]
    settings = {SAM_SETTING: describe_sam(sam)}
    return export_step("sam_prepare_tiles", SamPrepareTiles(sam), cases, settings=settings)


def sam_encoder(sam: Sam, half: bool = False) -> ExportedStep:
    """The image encoder, tile by tile: the attention of one tile takes up to a gigabyte.

    ``half`` computes in float16 and is compared with float32.
    """
    side = sam.image_encoder.img_size
    cases = [
        Case(title, (_sam_images(count, side, *shown),))
        for title, count, shown in (
            ("one", 1, (side, side // 3)),
            ("batch of 2", 2, (side, side)),
            ("one row", 1, (1, side)),
        )
    ]
    settings = {SAM_SETTING: describe_sam(sam), "precision": "float16" if half else "float32"}
    return export_step(
        "sam_encoder",
        ImageEncoder(sam, half),
        cases,
        single_rows=True,
        reference=ImageEncoder(sam) if half else None,
        float_tolerance=HALF_TOLERANCE if half else FLOAT_TOLERANCE,
        settings=settings,
    )


def sam_box_prompts() -> ExportedStep:
    """The step that turns boxes into prompts."""
    cases = [Case(f"{count} boxes", (_boxes(count, 330, 97),)) for count in (42, 0, 1, 500)]
    return export_step("sam_box_prompts", SamBoxPrompts(), cases)


def sam_decoder(sam: Sam) -> ExportedStep:
    """Prompt encoder and mask decoder, in chunks of prompts."""
    none = (torch.zeros((0, MASK_SIZE, MASK_SIZE), dtype=torch.uint8), torch.zeros((0, 4)))
    side = sam.image_encoder.img_size
    cases = []
    for title, frame, count, tiles, coarse in (
        ("coarse masks", (97, 330), CHUNK + 1, 3, True),  # used for tracing
        ("boxes", (97, 330), 2 * CHUNK + 1, 1, False),
        ("coarse masks of one tile", (97, 330), CHUNK + 1, 1, True),
        ("boxes of 4 tiles", (97, 330), 2 * CHUNK + 1, 4, False),
        ("no prompt", (97, 330), 0, 2, False),
        ("one prompt, larger frame", (2 * side, side + 301), 1, 1, False),
        ("1x1", (1, 1), 1, 1, False),
    ):
        boxes = _boxes(count, frame[1], frame[0])
        masks = (pixels(count, MASK_SIZE, MASK_SIZE), boxes) if coarse else none
        cases.append(_decoder_case(title, sam, frame, tiles, boxes, masks))
    return export_step(
        "sam_decoder",
        SamDecoder(sam),
        cases,
        chunk=CHUNK,
        chunked=[t.name for t in (PROMPT_POINTS, PROMPT_LABELS, COARSE_MASKS, COARSE_BOXES)],
        settings={SAM_SETTING: describe_sam(sam)},
    )


def sam_cells() -> ExportedStep:
    """The step that turns SAM's masks into cells."""
    cases = []
    for count, classes in ((33, 2), (0, 1), (1, 1), (500, 3)):
        random = generator()
        # No two are equal: torch's sort, unlike ONNX's, leaves open which of them is first.
        qualities = torch.randperm(count, generator=random) / max(count, 1)
        ids = torch.randint(0, classes, (count,), generator=random, dtype=torch.int32)
        inputs = (
            _boxes(count, 330, 97),
            _discs(count),
            qualities,
            ids,
            torch.rand((count, classes), generator=random),
            torch.tensor([count + 7], dtype=torch.int32),
            torch.tensor([OVERLAP_THRESHOLD]),
        )
        cases.append(Case(f"{count} cells, {classes} classes", inputs))
    return export_step("sam_cells", SamCells(), cases)


def _discs(count: int) -> Tensor:
    """Masks uint8 ``[count, M, M]``; every fifth is empty."""
    steps = (torch.arange(SAM_MASK_SIZE) + 0.5) / SAM_MASK_SIZE * 2 - 1
    disc = torch.sigmoid(12 * (1 - torch.hypot(steps[:, None], steps[None])))
    masks = (disc * 255).round().to(torch.uint8).repeat(count, 1, 1)
    masks[4::5] //= 3
    return masks


def _decoder_case(
    title: str,
    sam: Sam,
    frame_size: tuple[int, int],
    tiles: int,
    boxes: Tensor,
    coarse: tuple[Tensor, Tensor],
) -> Case:
    """A case of prompts with a box and points, one point per label and one labelled ``none``.

    The tiles lie side by side and overlap by two thirds.
    """
    count = len(boxes)
    corners = boxes.reshape(count, 2, 2)
    weights = torch.tensor([[0.5, 0.5], [0.1, 0.9], [1.0, 0.0]])
    points = torch.cat([corners, torch.einsum("pc,ncx->npx", weights, corners)], dim=1)
    names = ("box_start", "box_end", "foreground", "background", "none")
    labels = torch.tensor([POINT_LABELS[name] for name in names], dtype=torch.int32)
    labels = labels.repeat(count, 1)
    labels[1::3, :2] = POINT_LABELS["none"]  # every third has points alone
    channels, grid = sam.mask_decoder.transformer_dim, sam.prompt_encoder.image_embedding_size
    # Smooth, like an image's: noise would make masks of noise.
    embedding = torch.randn((tiles, channels, 5, 5), generator=generator())
    embedding = torch.nn.functional.interpolate(embedding, grid, mode="bicubic")
    height, width = frame_size
    step = width // (tiles + 2) if tiles > 1 else 0
    lefts = [step * index for index in range(tiles)]
    places = [[left, 0, left + width - step * (tiles - 1), height] for left in lefts]
    return Case(
        title, (embedding, torch.tensor(places, dtype=torch.int32), points, labels, *coarse)
    )


def _sam_images(count: int, side: int, height: int, width: int) -> Tensor:
    """Images with noise in the corner that is shown: uint8 ``[count, 4, side, side]``."""
    images = torch.zeros((count, 4, side, side), dtype=torch.uint8)
    images[:, :3, :height, :width] = pixels(count, 3, height, width)
    images[:, 3, :height, :width] = OPAQUE
    return images


def _boxes(count: int, width: int, height: int) -> Tensor:
    """Boxes, some of them over the frame's edge: float32 ``[count, 4]``."""
    random = generator()
    corner = torch.rand((count, 2), generator=random) * torch.tensor([width, height])
    return torch.cat([corner, corner + torch.rand((count, 2), generator=random) * 60 + 0.5], dim=1)
