"""SAM's masks as the cells of an answer: the step `sam_cells`."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SamCells(nn.Module):
    """Cells in the order of the quality that SAM predicts, which is their score.

    Their classes are those that the detector told.
    """

    def forward(
        self,
        prompt_boxes: Tensor,
        prompt_masks: Tensor,
        qualities: Tensor,
        detected_ids: Tensor,
        detected_probs: Tensor,
    ) -> tuple[Tensor, ...]:
        """Sort N cells.

        Args:
            prompt_boxes: float32 ``[N, 4]`` in frame pixels.
            prompt_masks: uint8 ``[N, M, M]``.
            qualities: float32 ``[N]``.
            detected_ids: int32 ``[N]``.
            detected_probs: float32 ``[N, K]``.

        Returns:
            boxes, scores (descending), class_ids, class_probs, masks, then boxes and masks once
            more under names of their own.
        """
        scores, order = torch.sort(qualities, descending=True)
        boxes, masks = prompt_boxes.index_select(0, order), prompt_masks.index_select(0, order)
        return (
            boxes,
            scores,
            detected_ids.index_select(0, order),
            detected_probs.index_select(0, order),
            masks,
            boxes.clone(),
            masks.clone(),
        )
