"""Every step of the S1 pipelines: its module, an example to trace, and the cases of its parity."""

from __future__ import annotations

import torch
from torch import Tensor

from cytoserve.contract import (
    CROP_SIZE,
    MAX_CELLS,
    NETWORK_SIZE,
    OVERLAP_THRESHOLD,
    PREDICTIONS,
    PROTOTYPES,
    SCORE_THRESHOLD,
)
from export.cell_classes import CellClasses
from export.exported_step import ExportedStep, export_step
from export.networks import CLASSIFIER_CHUNK, ClassifierNetwork, YoloNetwork
from export.parity import Case
from export.sample_inputs import camera_frame, generator, pixels
from export.yolo_decode import CHUNK, COEFFICIENTS, YoloDecode
from training.cell_crops import CellCrops
from training.classifier import CellClassifier
from training.letterbox import PrepareFrame
from training.yolo_network import SegmentationModel


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
    cases = [Case(name, (camera_frame(*shape),)) for name, shape in shapes.items()]
    cases.append(Case("one value", (torch.full((50, 60, 1), 4095, dtype=torch.int32),)))
    return export_step("yolo_prepare", PrepareFrame(), cases)


def yolo_network(name: str, network: SegmentationModel) -> ExportedStep:
    """A YOLO11n-seg under the step name `yolo_cells` or `yolo_targets`."""
    cases = [Case(f"batch of {n}", (pixels(n, 3, NETWORK_SIZE, NETWORK_SIZE),)) for n in (1, 3)]
    return export_step(name, YoloNetwork(network), cases)


def yolo_decode() -> ExportedStep:
    """The step that makes cells of raw predictions."""
    cases = [
        Case(f"{cells} cells, {classes} classes", _predictions(cells, classes))
        for cells, classes in ((40, 2), (0, 1), (1, 1), (CHUNK, 3), (300, 2), (2000, 5))
    ]
    capped = (*_predictions(200, 2)[:-1], torch.tensor([50], dtype=torch.int32))
    return export_step("yolo_decode", YoloDecode(), [*cases, Case("capped at 50", capped)])


def cell_crops() -> ExportedStep:
    """The step that cuts crops around cells."""
    levels = torch.tensor([100.0, 3000.0])
    cases = [
        Case(
            f"{count} cells, {channels} channels",
            (camera_frame(220, 310, channels), levels, _boxes(count, 310, 220)),
        )
        for count, channels in ((5, 1), (0, 1), (1, 3), (400, 3))
    ]
    return export_step("cell_crops", CellCrops(), cases)


def resnet50_cells(classifier: CellClassifier) -> ExportedStep:
    """The classifier, in chunks of crops."""
    counts = (CLASSIFIER_CHUNK, 1, 2 * CLASSIFIER_CHUNK + 1)
    cases = [Case(f"{n} crops", (pixels(n, 3, CROP_SIZE, CROP_SIZE),)) for n in counts]
    module = ClassifierNetwork(classifier)
    return export_step("resnet50_cells", module, cases, chunk=CLASSIFIER_CHUNK)


def cell_classes() -> ExportedStep:
    """The step that joins the classifier's answer to the cells."""
    cases = [
        Case(
            f"{cells} cells, {classes} classes",
            (torch.rand(max(cells, 1), classes), _boxes(cells, 310, 220)),
        )
        for cells, classes in ((33, 2), (0, 2), (1, 3))
    ]
    return export_step("cell_classes", CellClasses(), cases)


def _boxes(count: int, width: int, height: int) -> Tensor:
    """Boxes, some of them over the frame's edge: float32 ``[count, 4]``."""
    random = generator()
    corner = torch.rand((count, 2), generator=random) * torch.tensor([width, height])
    return torch.cat([corner, corner + torch.rand((count, 2), generator=random) * 60 + 0.5], dim=1)


def _predictions(cells: int, classes: int) -> tuple[Tensor, ...]:
    """Inputs of `yolo_decode` with ``cells`` anchors above the default threshold."""
    random = generator()
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
