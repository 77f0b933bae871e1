"""Non-maximum suppression as a graph, with the IoU threshold as an input."""

from __future__ import annotations

from typing import Any

import torch
import torchvision
from torch import Tensor


class NonMaximumSuppression(torch.autograd.Function):
    """Greedy NMS whose IoU threshold is a tensor; torchvision exports only a constant one.

    ``apply(boxes, scores, threshold)`` takes float32 ``[N, 4]`` (x0, y0, x1, y1), ``[N]`` and
    ``[1]``, and returns the indices of the kept boxes, int64, best score first.
    """

    @staticmethod
    def forward(ctx: Any, boxes: Tensor, scores: Tensor, threshold: Tensor) -> Tensor:
        """Return the indices of the kept boxes."""
        kept: Tensor = torchvision.ops.nms(boxes, scores, float(threshold))
        return kept

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores: Any, threshold: Any) -> Any:
        """Express the operation as ONNX nodes."""
        axes = g.op("Constant", value_t=torch.tensor([0]))
        boxes = g.op("Unsqueeze", boxes, axes)
        scores = g.op("Unsqueeze", g.op("Unsqueeze", scores, axes), axes)
        everything = g.op("Constant", value_t=torch.tensor([2**31 - 1]))
        selected = g.op("NonMaxSuppression", boxes, scores, everything, threshold)
        column = g.op("Constant", value_t=torch.tensor(2))
        return g.op("Gather", selected, column, axis_i=1)
