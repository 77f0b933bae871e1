"""Every step of `maskrcnn`: its module, an example to trace, and the cases of its parity."""

from __future__ import annotations

import torch
from torchvision.models.detection import MaskRCNN

from cytoserve.contract import MAX_CELLS, OVERLAP_THRESHOLD, STEPS
from export.exported_step import ExportedStep, export_step
from export.graphs import trace_graph
from export.maskrcnn_network import MaskRcnnNetwork
from export.maskrcnn_parity import check_cells
from export.maskrcnn_prepare import PrepareRgb
from export.parity import Case
from export.sample_inputs import camera_frame, pixels

ALL, NONE = 0.0, 1.0
"""Score thresholds that every proposal passes, or none, whatever a network has learned."""


def maskrcnn_prepare() -> ExportedStep:
    """The step that normalises a frame to 8-bit RGB."""
    shapes = {
        "odd grey": (97, 330, 1),  # traced with: the tracer would fold the sides of a 1x1 frame
        "odd RGB": (97, 33, 3),
        "1x1": (1, 1, 1),
        "one row": (1, 700, 1),
        "640x480 RGB": (480, 640, 3),
    }
    cases = [Case(name, (camera_frame(*shape),)) for name, shape in shapes.items()]
    cases.append(Case("one value", (torch.full((50, 60, 1), 4095, dtype=torch.int32),)))
    return export_step("maskrcnn_prepare", PrepareRgb(), cases)


def maskrcnn_network(network: MaskRCNN) -> ExportedStep:
    """Mask R-CNN with thresholds, NMS, cap and mask patches."""
    cases = [
        _case("odd, 42 cells at most", (97, 130), ALL, 42),  # traced with
        _case("no cell", (64, 64), NONE, MAX_CELLS),
        _case("one cell", (130, 97), ALL, 1),
        _case("1x1", (1, 1), ALL, 5),
        _case("one row", (1, 300), ALL, 5),
        _case("one column", (300, 1), ALL, 5),
        # Boxes that overlap are kept, or no frame of noise has so many.
        _case("500 cells at most", (512, 500), ALL, 500, overlap_threshold=0.99),
    ]
    module = MaskRcnnNetwork(network).eval()
    graph = trace_graph(module, STEPS["maskrcnn_network"], cases[0].inputs)
    return ExportedStep(
        "maskrcnn_network",
        graph,
        check_cells(module, graph, cases),
        {
            "min_size": network.transform.min_size[-1],
            "max_size": network.transform.max_size,
            "proposals": network.rpn.post_nms_top_n(),
        },
    )


def _case(
    name: str,
    size: tuple[int, int],
    score_threshold: float,
    max_cells: int,
    overlap_threshold: float = OVERLAP_THRESHOLD,
) -> Case:
    thresholds = (torch.tensor([score_threshold]), torch.tensor([overlap_threshold]))
    cap = torch.tensor([max_cells], dtype=torch.int32)
    return Case(name, (pixels(1, 3, *size), *thresholds, cap))
