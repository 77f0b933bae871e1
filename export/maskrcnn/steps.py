"""Export of the S4 pipeline `maskrcnn`, and of each of its steps.

A step is its module, an example to trace, and the cases of its parity check.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx
import torch
from torch import Tensor
from torchvision.models.detection import MaskRCNN

from cytoserve.contract import (
    CANDIDATE_PROBS,
    DEFAULT_MAX_CELLS,
    MASK_SIZE,
    MASKRCNN_TILE_SIZE,
    NETWORK_TILES,
    OVERLAP_THRESHOLD,
    STEPS,
    TILE_ORIGINS,
)
from export.graphs.micro_batches import wrap_in_loop
from export.graphs.trace import trace_graph
from export.maskrcnn.network import MaskRcnnCells, MaskRcnnNetwork, MaskRcnnTile
from export.maskrcnn.reference import TorchvisionMaskRcnn
from export.parity.cells import check_cells
from export.parity.chain import Chain
from export.parity.instances import ChainParity, check_chain
from export.parity.steps import Case, ExportedStep, camera_frame, export_step, generator, pixels
from export.repository.pipelines import ExportedPipeline, Progress
from training.checkpoint import LearnedScale, Recipe
from training.datasets.scale import recorded_scale
from training.maskrcnn.network import load_maskrcnn
from training.preprocessing.cutting import FrameTiles

ALL, NONE = 0.0, 1.0
"""Score thresholds that every proposal passes, or none, whatever a network has learned."""

TILE_OVERLAP = 128.0
"""Overlap of tiles in the test cases, in network pixels."""


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
        maskrcnn_prepare(),
        maskrcnn_network(network),
        maskrcnn_cells(),
    )
    return maskrcnn_pipeline(exported, recipe, scale, network)


def maskrcnn_pipeline(
    exported: tuple[ExportedStep, ...], recipe: Recipe, scale: LearnedScale, network: MaskRCNN
) -> ExportedPipeline:
    """The exported steps of `maskrcnn`, to be compared with torchvision's own forward."""

    def check(chain: Chain, frames: Mapping[str, npt.NDArray[Any]]) -> list[ChainParity]:
        return check_chain(chain, TorchvisionMaskRcnn(network), None, frames, scale)

    recipes = {"maskrcnn_network": recipe}
    return ExportedPipeline(
        "maskrcnn",
        recipe.class_names,
        exported,
        recipes,
        "torchvision",
        check,
        None if recipe.threshold is None else recipe.threshold.value,
        scale,
        recipe.appearance,
    )


def maskrcnn_prepare() -> ExportedStep:
    """The step that normalises, scales and tiles a frame."""
    side = MASKRCNN_TILE_SIZE
    shapes = {
        "odd grey": ((97, 330, 1), 1.0),  # used for tracing, which would fold a side of 1
        "odd RGB": ((97, 33, 3), 1.0),
        "1x1": ((1, 1, 1), 1.0),
        "one row": ((1, 700, 1), 1.0),
        "640x480 RGB": ((480, 640, 3), 0.7),
        "as large as a tile": ((side, side, 1), 1.0),
        "one row more": ((side + 1, side, 1), 1.0),
        "six tiles": ((side + 90, 2 * side, 1), 1.0),
        "enlarged": ((300, 700, 3), 1.7),
        "shrunk to nothing": ((30, 50, 3), 1e-6),
    }
    cases = [
        Case(name, (camera_frame(*shape), torch.tensor([scale]), torch.tensor([TILE_OVERLAP])))
        for name, (shape, scale) in shapes.items()
    ]
    one_value = torch.full((50, 60, 1), 4095, dtype=torch.int32)
    cases.append(Case("one value", (one_value, torch.tensor([1.0]), torch.tensor([0.0]))))
    return export_step("maskrcnn_prepare", FrameTiles(), cases)


def maskrcnn_network(network: MaskRCNN) -> ExportedStep:
    """Mask R-CNN with thresholds, NMS and mask patches, tile by tile."""
    cases = [
        _tiles("odd", (97, 130), 0.5),  # used for tracing
        _tiles("no cell", (64, 64), NONE),
        _tiles("everything", (130, 97), ALL),
        _tiles("1x1", (1, 1), ALL),
        _tiles("one row", (1, 300), ALL),
        _tiles("one column", (300, 1), ALL),
        _tiles("two tiles, no cell", (64, 64), NONE, columns=2),
        # Overlapping boxes are kept: otherwise, no frame of noise has hundreds of cells.
        _tiles("six tiles, hundreds", (80, 90), 0.3, rows=2, columns=3, overlap_threshold=0.99),
    ]
    module = MaskRcnnNetwork(network).eval()
    graph = tile_by_tile(network, cases[0])
    return ExportedStep(
        "maskrcnn_network",
        graph,
        check_cells(module, graph, STEPS["maskrcnn_network"], cases),
        {"proposals": network.rpn.post_nms_top_n()},
    )


def tile_by_tile(network: MaskRCNN, example: Case) -> onnx.ModelProto:
    """The graph of one tile in a loop over all tiles, in the memory of one tile."""
    step = STEPS["maskrcnn_network"]
    graph = trace_graph(MaskRcnnTile(network), step, example.inputs)
    [probabilities] = [v for v in graph.graph.output if v.name == CANDIDATE_PROBS.name]
    classes = probabilities.type.tensor_type.shape.dim[1]
    open_name = classes.dim_param
    # The loop begins with zero rows of this many columns; the contract leaves the number open.
    classes.dim_value = network.roi_heads.box_predictor.cls_score.out_features - 1
    graph = wrap_in_loop(graph, 1, [NETWORK_TILES.name, TILE_ORIGINS.name])
    [probabilities] = [v for v in graph.graph.output if v.name == CANDIDATE_PROBS.name]
    probabilities.type.tensor_type.shape.dim[1].dim_param = open_name
    return graph


def maskrcnn_cells() -> ExportedStep:
    """The step that merges the cells of all tiles."""
    cases = [
        Case(f"{count} candidates, {classes} classes", _candidates(count, classes))
        for count, classes in ((60, 2), (0, 1), (1, 1), (2000, 3))
    ]
    capped = (*_candidates(300, 2)[:-1], torch.tensor([20], dtype=torch.int32))
    cases.append(Case("capped at 20", capped))
    module, step = MaskRcnnCells().eval(), STEPS["maskrcnn_cells"]
    graph = trace_graph(module, step, cases[0].inputs)
    return ExportedStep(step.name, graph, check_cells(module, graph, step, cases))


def _tiles(
    name: str,
    size: tuple[int, int],
    score_threshold: float,
    rows: int = 1,
    columns: int = 1,
    overlap_threshold: float = OVERLAP_THRESHOLD,
) -> Case:
    """Tiles of noise (h, w) that overlap their neighbours by half."""
    height, width = size
    step_y, step_x = (max(1, side // 2) for side in size)
    origins = [(x * step_x, y * step_y) for y in range(rows) for x in range(columns)]
    frame = ((rows - 1) * step_y + height, (columns - 1) * step_x + width)
    inputs = (
        pixels(rows * columns, 3, *size),
        torch.tensor(origins).float(),
        torch.tensor([1.0, 1.0, *frame, float(min(step_x, step_y))]),
        torch.tensor([score_threshold]),
        torch.tensor([overlap_threshold]),
    )
    return Case(name, inputs)


def _candidates(count: int, classes: int) -> tuple[Tensor, ...]:
    """Inputs of `maskrcnn_cells`: discs, most of which overlap others."""
    random = generator()
    side = 40.0 + 6.0 * count**0.5 * 2
    corner = torch.rand((count, 2), generator=random) * side
    boxes = torch.cat([corner, corner + torch.rand((count, 2), generator=random) * 40 + 5], dim=1)
    steps = (torch.arange(MASK_SIZE) + 0.5) / MASK_SIZE * 2 - 1
    disc = torch.sigmoid(12 * (1 - torch.hypot(steps[:, None], steps[None])))
    scores = torch.randperm(count, generator=random) / max(count, 1)
    flags = torch.randint(0, 4, (count,), generator=random)
    return (
        boxes,
        scores,
        torch.randint(0, classes, (count,), generator=random, dtype=torch.int32),
        torch.rand((count, classes), generator=random),
        (disc * 255).round().to(torch.uint8).repeat(count, 1, 1),
        (flags > 0).to(torch.int32),
        (flags == 0).to(torch.int32),
        torch.tensor([OVERLAP_THRESHOLD]),
        torch.tensor([DEFAULT_MAX_CELLS], dtype=torch.int32),
    )
