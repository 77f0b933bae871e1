"""The steps `sam_box_prompts` and `sam_cells`: boxes to prompts of SAM, and its masks to cells."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cytoserve.contract import MASK_SIZE, POINT_LABELS
from export.sam.geometry import sides_left_open
from training.postprocessing import INSIDE, suppress_by_masks


class SamBoxPrompts(nn.Module):
    """Turn every box into a prompt: its two corners, without a coarse mask."""

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


class SamCells(nn.Module):
    """Cells in the order of the quality that SAM predicts, which is their score.

    Their classes come from the detector. Each cell is answered once: where two boxes lead SAM to
    one cell, the better mask stays. A mask without a pixel is no cell.
    """

    def forward(
        self,
        prompt_boxes: Tensor,
        prompt_masks: Tensor,
        qualities: Tensor,
        detected_ids: Tensor,
        detected_probs: Tensor,
        cells_detected: Tensor,
        overlap_threshold: Tensor,
    ) -> tuple[Tensor, ...]:
        """Choose and sort the cells among N detected ones.

        Args:
            prompt_boxes: boxes of the masks, float32 ``[N, 4]`` in frame pixels.
            prompt_masks: SAM's masks, uint8 ``[N, M, M]``.
            qualities: qualities that SAM predicts, float32 ``[N]``.
            detected_ids: class ids of the detector, int32 ``[N]``.
            detected_probs: class probabilities of the detector, float32 ``[N, K]``.
            cells_detected: number of cells of the detector, int32 ``[1]``; more than N where it
                reached its cap.
            overlap_threshold: float32 ``[1]``, share of the smaller mask above which the mask of
                the lower quality is dropped, see `training.postprocessing`.

        Returns:
            boxes, scores (descending), class_ids, class_probs, masks, cells_found int32 ``[1]``,
            which also counts cells beyond the detector's cap, then boxes and masks again under
            separate names.
        """
        order = torch.sort(qualities, descending=True).indices
        shown = prompt_masks.flatten(1).to(torch.int32).amax(dim=1) >= INSIDE
        order = order.index_select(0, torch.nonzero(shown.index_select(0, order))[:, 0])
        kept = suppress_by_masks(
            prompt_boxes.index_select(0, order),
            prompt_masks.index_select(0, order),
            overlap_threshold,
        )
        order = order.index_select(0, kept)
        boxes, masks = prompt_boxes.index_select(0, order), prompt_masks.index_select(0, order)
        prompts, found = (torch._shape_as_tensor(each)[0] for each in (qualities, order))
        beyond = torch.clamp(cells_detected - prompts.to(torch.int32), min=0)
        return (
            boxes,
            qualities.index_select(0, order),
            detected_ids.index_select(0, order),
            detected_probs.index_select(0, order),
            masks,
            beyond + found.to(torch.int32),
            boxes.clone(),
            masks.clone(),
        )
