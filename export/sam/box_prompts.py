"""Boxes as prompts of SAM: the step `sam_box_prompts`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cytoserve.contract import MASK_SIZE, POINT_LABELS
from export.sam.geometry import sides_left_open


class SamBoxPrompts(nn.Module):
    """Every box as its two corners, without a coarse mask."""

    def forward(self, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Make prompts of ``boxes`` float32 ``[N, 4]`` in frame pixels.

        Returns ``prompt_points`` float32 ``[N, 2, 2]``, ``prompt_labels`` int32 ``[N, 2]``,
        ``coarse_masks`` uint8 ``[0, M, M]`` and ``coarse_boxes`` float32 ``[0, 4]``.
        """
        corners = torch.tensor(
            [POINT_LABELS["box_start"], POINT_LABELS["box_end"]], dtype=torch.int32
        )
        labels = corners + torch.zeros_like(boxes[:, :2], dtype=torch.int32)
        count = torch._shape_as_tensor(boxes)[0]
        # Neither the points of a prompt nor the number of coarse masks may be fixed in the graph.
        none, one = boxes[: (count < 0).long()], (count >= 0).long()
        masks = torch.zeros((MASK_SIZE, MASK_SIZE), dtype=torch.int32) + none[:, :1, None].int()
        points = boxes.reshape(-1, 2, 2)[:, : 2 * one]
        return points, sides_left_open(labels, one, first=1), masks.to(torch.uint8), none
