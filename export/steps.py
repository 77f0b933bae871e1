"""Every step of the S1 pipelines: its module, an example to trace, and the cases of its parity."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
import torch
from torch import Tensor, nn

from cytoserve.contract import (
    CROP_SIZE,
    MAX_CELLS,
    NETWORK_SIZE,
    OVERLAP_THRESHOLD,
    PREDICTIONS,
    PROTOTYPES,
    SCORE_THRESHOLD,
    STEPS,
)
from export.cell_classes import CellClasses
from export.chunked import in_chunks
from export.graphs import trace_graph
from export.networks import CLASSIFIER_CHUNK, ClassifierNetwork, YoloNetwork
from export.parity import Case, check_parity
from export.yolo_decode import CHUNK, COEFFICIENTS, YoloDecode
from training.cell_crops import CellCrops
from training.classifier import CellClassifier
from training.letterbox import PrepareFrame
from training.yolo_network import SegmentationModel


@dataclass(frozen=True)
class ExportedStep:
    """A graph that was proven equal to its module, and by how much."""

    name: str
    graph: onnx.ModelProto
    parity: dict[str, dict[str, float]]


def yolo_prepare() -> ExportedStep:
    """The step that normalises and letterboxes a frame."""
    shapes = {
        "odd grey": (97, 330, 1),  # traced with: the tracer would fold the sides of a 1x1 frame
        "odd RGB": (97, 33, 3),
        "1x1": (1, 1, 1),
        "one row": (1, 700, 1),
        "640x480 RGB": (480, 640, 3),
        "1024x1022": (1022, 1024, 1),
        "2048x2048": (2048, 2048, 1),
    }
    cases = [Case(name, (_camera(*shape),)) for name, shape in shapes.items()]
    cases.append(Case("one value", (torch.full((50, 60, 1), 4095, dtype=torch.int32),)))
    return _export("yolo_prepare", PrepareFrame(), cases)


def yolo_network(name: str, network: SegmentationModel) -> ExportedStep:
    """A YOLO11n-seg under the step name `yolo_cells` or `yolo_targets`."""
    cases = [Case(f"batch of {n}", (_pixels(n, NETWORK_SIZE),)) for n in (1, 3)]
    return _export(name, YoloNetwork(network), cases)


def yolo_decode() -> ExportedStep:
    """The step that makes cells of raw predictions."""
    cases = [
        Case(f"{cells} cells, {classes} classes", _predictions(cells, classes))
        for cells, classes in ((40, 2), (0, 1), (1, 1), (CHUNK, 3), (300, 2), (2000, 5))
    ]
    capped = (*_predictions(200, 2)[:-1], torch.tensor([50], dtype=torch.int32))
    return _export("yolo_decode", YoloDecode(), [*cases, Case("capped at 50", capped)])


def cell_crops() -> ExportedStep:
    """The step that cuts crops around cells."""
    levels = torch.tensor([100.0, 3000.0])
    cases = [
        Case(
            f"{count} cells, {channels} channels",
            (_camera(220, 310, channels), levels, _boxes(count, 310, 220)),
        )
        for count, channels in ((5, 1), (0, 1), (1, 3), (400, 3))
    ]
    return _export("cell_crops", CellCrops(), cases)


def resnet50_cells(classifier: CellClassifier) -> ExportedStep:
    """The classifier, in chunks of crops."""
    module = ClassifierNetwork(classifier)
    step = STEPS["resnet50_cells"]
    graph = in_chunks(trace_graph(module, step, (_pixels(2, CROP_SIZE),)), CLASSIFIER_CHUNK)
    counts = (1, CLASSIFIER_CHUNK, 2 * CLASSIFIER_CHUNK + 1)
    cases = [Case(f"{n} crops", (_pixels(n, CROP_SIZE),)) for n in counts]
    return ExportedStep(step.name, graph, check_parity(module, graph, step, cases))


def cell_classes() -> ExportedStep:
    """The step that joins the classifier's answer to the cells."""
    cases = [
        Case(
            f"{cells} cells, {classes} classes",
            (torch.rand(max(cells, 1), classes), _boxes(cells, 310, 220)),
        )
        for cells, classes in ((33, 2), (0, 2), (1, 3))
    ]
    return _export("cell_classes", CellClasses(), cases)


def _export(name: str, module: nn.Module, cases: list[Case]) -> ExportedStep:
    """Trace with the first case and check all of them."""
    graph = trace_graph(module.eval(), STEPS[name], cases[0].inputs)
    return ExportedStep(name, graph, check_parity(module, graph, STEPS[name], cases))


def _camera(height: int, width: int, channels: int) -> Tensor:
    """A random camera frame: 12-bit values on a gradient."""
    gradient = torch.linspace(0, 1000, width).to(torch.int32)[None, :, None]
    noise = torch.randint(0, 3000, (height, width, channels), generator=_random()).to(torch.int32)
    return noise + gradient


def _pixels(count: int, side: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, side, side), generator=_random(), dtype=torch.uint8)


def _boxes(count: int, width: int, height: int) -> Tensor:
    """Boxes, some of them over the frame's edge: float32 ``[count, 4]``."""
    random = _random()
    corner = torch.rand((count, 2), generator=random) * torch.tensor([width, height])
    return torch.cat([corner, corner + torch.rand((count, 2), generator=random) * 60 + 0.5], dim=1)


def _predictions(cells: int, classes: int) -> tuple[Tensor, ...]:
    """Inputs of `yolo_decode` with ``cells`` anchors above the default threshold."""
    random = _random()
    anchors = PREDICTIONS.dims[1]
    values = torch.zeros(1, 4 + classes + COEFFICIENTS, anchors)
    values[0, :2] = torch.rand((2, anchors), generator=random) * NETWORK_SIZE
    values[0, 2:4] = torch.rand((2, anchors), generator=random) * 20 + 4
    values[0, 4:-COEFFICIENTS] = torch.rand((classes, anchors), generator=random) * 0.2
    chosen = torch.randperm(anchors, generator=random)[:cells]
    values[0, 4, chosen] = torch.rand(cells, generator=random) * 0.7 + 0.3
    values[0, -COEFFICIENTS:] = torch.randn((COEFFICIENTS, anchors), generator=random)
    prototypes = torch.randn((1, *PROTOTYPES.dims), generator=random)
    return (
        values,
        prototypes,
        torch.tensor([0.625, 639 / 1022, 0.0, 0.0, 1022, 1024]),
        torch.tensor([SCORE_THRESHOLD]),
        torch.tensor([OVERLAP_THRESHOLD]),
        torch.tensor([MAX_CELLS], dtype=torch.int32),
    )


def _random() -> torch.Generator:
    return torch.Generator().manual_seed(0)
