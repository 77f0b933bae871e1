"""How modules are traced: without what only training needs, and into a file that may be large.

Resizing follows the rule of torch and of Pillow.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cytoserve.contract import STEPS
from export.graphs.files import open_session
from export.graphs.trace import resize, trace_graph

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


@pytest.mark.parametrize(
    ("source", "target"),
    [
        pytest.param((97, 130), (200, 301), id="larger"),
        pytest.param((97, 130), (50, 31), id="smaller"),
        pytest.param((300, 7), (20, 30), id="smaller and larger"),
        pytest.param((1, 1), (5, 4), id="one pixel"),
    ],
)
def test_resize_is_that_of_torch(source: tuple[int, int], target: tuple[int, int]) -> None:
    images = torch.rand((2, 3, *source), generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.interpolate(images, target, mode="bilinear", antialias=True)
    answer = resize(images, *(torch.tensor(side) for side in target))
    torch.testing.assert_close(answer, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("target", [(300, 1), (10, 1), (1, 300)])
def test_resize_to_one_pixel_is_that_of_pillow(target: tuple[int, int]) -> None:
    image = np.random.default_rng(0).random((160, 200), np.float32)
    height, width = target
    expected = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    answer = resize(torch.from_numpy(image), torch.tensor(height), torch.tensor(width))
    np.testing.assert_allclose(answer.numpy(), np.asarray(expected), atol=1e-5)
