"""The steps that classify cells: modules, examples to trace, and cases of their parity checks."""

from __future__ import annotations

import torch
from torch import Tensor

from cytoserve.contract import CROP_SIZE
from export.parity.steps import Case, ExportedStep, camera_frame, export_step, generator, pixels
from export.resnet.network import CLASSIFIER_CHUNK, CellClasses, ClassifierNetwork
from training.preprocessing.cutting import CellCrops
from training.resnet.network import CellClassifier


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
