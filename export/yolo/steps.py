"""Export of the pipeline `yolo`, and of each of its steps.

A step is its module, an example to trace, and the cases of its parity check.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from cytoserve.contract import (
    DEFAULT_MAX_CELLS,
    NETWORK_SIZE,
    OVERLAP_THRESHOLD,
    PREDICTIONS,
    PROTOTYPES,
    SCORE_THRESHOLD,
    STEPS,
)
from export.graphs.trace import trace_graph
from export.parity.cells import check_cells
from export.parity.chain import Chain
from export.parity.instances import ChainParity, Classify, check_chain
from export.parity.steps import Case, ExportedStep, camera_frame, export_step, generator, pixels
from export.repository.pipelines import ExportedPipeline, Progress
from export.yolo.reference import UltralyticsYolo
from training.checkpoint import LearnedScale, Recipe
from training.datasets.scale import recorded_scale
from training.preprocessing.cutting import NetworkTiles
from training.yolo.decode import CHUNK, COEFFICIENTS, YoloDecode
from training.yolo.network import SegmentationModel, YoloNetwork, load_network

TILE_OVERLAP = 128.0
"""Overlap of tiles in the test cases, in network pixels."""


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
        yolo_prepare(),
        yolo_network("yolo_targets", network),
        yolo_decode(),
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

    recipe = next(iter(recipes.values()))  # the network's comes first
    return ExportedPipeline(
        name,
        class_names,
        exported,
        recipes,
        "ultralytics",
        check,
        None if recipe.threshold is None else recipe.threshold.value,
        scale,
        recipe.appearance,
    )


def yolo_prepare() -> ExportedStep:
    """The step that normalises, scales and tiles a frame."""
    shapes = {
        "odd grey": ((97, 330, 1), 1.0),  # used for tracing, which would fold a side of 1
        "odd RGB": ((97, 33, 3), 1.0),
        "1x1": ((1, 1, 1), 1.0),
        "one row": ((1, 700, 1), 1.0),
        "640x480 RGB": ((480, 640, 3), 1.0),
        "641 px": ((641, 640, 1), 1.0),
        "1024x1022": ((1022, 1024, 1), 1.0),
        "2048x2048": ((2048, 2048, 1), 1.0),
        "2048x2048 shrunk to fit": ((2048, 2048, 1), NETWORK_SIZE / 2048),
        "enlarged": ((300, 500, 3), 1.7),
        "shrunk to nothing": ((30, 50, 3), 1e-6),
    }
    cases = [
        Case(name, (camera_frame(*shape), torch.tensor([scale]), torch.tensor([TILE_OVERLAP])))
        for name, (shape, scale) in shapes.items()
    ]
    one_value = torch.full((50, 60, 1), 4095, dtype=torch.int32)
    cases.append(Case("one value", (one_value, torch.tensor([1.0]), torch.tensor([0.0]))))
    cases.append(
        Case("overlap", (camera_frame(800, 90, 1), torch.tensor([1.0]), torch.tensor([1e9])))
    )
    return export_step("yolo_prepare", NetworkTiles(), cases)


def yolo_network(name: str, network: SegmentationModel) -> ExportedStep:
    """A YOLO11n-seg under the step name `yolo_cells` or `yolo_targets`, one tile at a time.

    One tile keeps all cores of a processor as busy as several do, and its activations, about 60 MB,
    do not grow with the frame.
    """
    cases = [Case(f"{n} tiles", (pixels(n, 3, NETWORK_SIZE, NETWORK_SIZE),)) for n in (1, 3)]
    return export_step(name, YoloNetwork(network), cases, single_rows=True)


def yolo_decode() -> ExportedStep:
    """The step that turns raw predictions into cells."""
    cases = [
        Case(
            f"{cells} cells, {classes} classes, {tiles} tiles", _predictions(cells, classes, tiles)
        )
        for cells, classes, tiles in (
            (40, 2, 2),
            (0, 1, 1),
            (1, 1, 1),
            (CHUNK, 3, 1),
            (300, 2, 4),
            (800, 5, 6),
        )
    ]
    capped = (*_predictions(200, 2, 1)[:-1], torch.tensor([50], dtype=torch.int32))
    module, step = YoloDecode().eval(), STEPS["yolo_decode"]
    graph = trace_graph(module, step, cases[0].inputs)
    parity = check_cells(module, graph, step, [*cases, Case("capped at 50", capped)])
    return ExportedStep(step.name, graph, parity)


def _predictions(cells: int, classes: int, tiles: int) -> tuple[Tensor, ...]:
    """Inputs of `yolo_decode` with ``cells`` anchors of all tiles above the default threshold.

    A third of these anchors claim the cell of another anchor, with a small offset.
    """
    random = generator()
    anchors = PREDICTIONS.dims[1]
    values = torch.zeros(tiles, 4 + classes + COEFFICIENTS, anchors)
    values[:, :2] = torch.rand((tiles, 2, anchors), generator=random) * NETWORK_SIZE
    values[:, 2:4] = torch.rand((tiles, 2, anchors), generator=random) * 20 + 4
    low = torch.rand((tiles, classes, anchors), generator=random) * 0.2
    values[:, 4:-COEFFICIENTS] = low
    chosen = torch.randperm(tiles * anchors, generator=random)[:cells]
    tile, anchor = chosen // anchors, chosen % anchors
    again = len(tile[1::3])
    tile[1::3] = tile[::3][:again]
    high = torch.rand(cells, generator=random) * 0.7 + 0.3
    values[tile, 4, anchor] = high
    values[:, -COEFFICIENTS:] = torch.randn((tiles, COEFFICIENTS, anchors), generator=random)
    for part in (slice(0, 4), slice(-COEFFICIENTS, None)):
        first = values[tile[::3][:again], part, anchor[::3][:again]]
        values[tile[1::3], part, anchor[1::3]] = first
    values[tile[1::3], :2, anchor[1::3]] += 0.1 * values[tile[1::3], 2:4, anchor[1::3]]
    # Smooth, like a network's: in noise, every second pixel would be on the verge of a mask.
    coarse = torch.randn((tiles, PROTOTYPES.dims[0], 20, 20), generator=random)
    prototypes = torch.nn.functional.interpolate(coarse, PROTOTYPES.dims[1:], mode="bicubic")
    origins = torch.stack([torch.arange(tiles) * 500.0, torch.zeros(tiles)], dim=1)
    width, height = 500 * (tiles - 1) + NETWORK_SIZE, NETWORK_SIZE
    return (
        values,
        prototypes,
        origins,
        torch.tensor([1.0, 639 / 640, height, width, TILE_OVERLAP]),
        torch.tensor([SCORE_THRESHOLD]),
        torch.tensor([OVERLAP_THRESHOLD]),
        torch.tensor([DEFAULT_MAX_CELLS], dtype=torch.int32),
    )
