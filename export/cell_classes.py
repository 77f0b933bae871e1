"""The classifier's answer joined to the cells: the step `cell_classes`."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CellClasses(nn.Module):
    """One class per cell; trims the row that `cell_crops` adds where there is no cell."""

    def forward(self, crop_probs: Tensor, cell_boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Join ``crop_probs`` float32 ``[max(N, 1), K]`` to ``cell_boxes`` float32 ``[N, 4]``.

        Returns ``class_ids`` int32 ``[N]`` and ``class_probs`` float32 ``[N, K]``.
        """
        probabilities = crop_probs[: torch._shape_as_tensor(cell_boxes)[0]]
        return probabilities.argmax(dim=1).to(torch.int32), probabilities
