"""How modules are traced: without what only training needs, and into a file that may be large."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cytoserve.contract import STEPS
from export.graphs.files import open_session
from export.graphs.trace import trace_graph

STEP = STEPS["resnet50_cells"]


class Probe(torch.nn.Module):
    """Means of crops times a weight; it notes whether gradients are recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.5))
        self.recorded: list[bool] = []

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        half = crops.float() * self.weight
        self.recorded.append(half.requires_grad)
        return half.mean(dim=(2, 3))


def test_a_trace_keeps_no_intermediate_results() -> None:
    probe = Probe()
    crops = torch.full((2, *STEP.inputs[0].dims), 4, dtype=torch.uint8)
    graph = trace_graph(probe, STEP, [crops])
    assert probe.recorded
    assert not any(probe.recorded)
    feeds = {STEP.inputs[0].name: crops.numpy()}
    [answer] = open_session(graph.SerializeToString(), 1).run(None, feeds)
    np.testing.assert_array_equal(answer, np.full((2, 3), 2, np.float32))


def test_a_graph_goes_to_a_file_beside_which_weights_can_lie(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """torch makes one message of a graph for anything but a path as text: 2 GiB at most."""
    files: list[object] = []
    export = torch.onnx.export

    def noted(module: Any, arguments: Any, file: Any, **settings: Any) -> None:
        files.append(file)
        export(module, arguments, file, **settings)

    monkeypatch.setattr(torch.onnx, "export", noted)
    trace_graph(Probe(), STEP, [torch.zeros((1, *STEP.inputs[0].dims), dtype=torch.uint8)])
    assert [type(file) for file in files] == [str]
