"""From what was found in all tiles of a frame to its cells: the step `maskrcnn_cells`."""

from __future__ import annotations

from torch import Tensor, nn

from training.postprocessing.merge_cells import merge_cells


class MaskRcnnCells(nn.Module):
    """One cell is one answer, whatever classes it might have and whatever tiles it lies in."""

    def forward(
        self,
        candidate_boxes: Tensor,
        candidate_scores: Tensor,
        candidate_ids: Tensor,
        candidate_probs: Tensor,
        candidate_masks: Tensor,
        whole: Tensor,
        large_cut: Tensor,
        overlap_threshold: Tensor,
        max_cells: Tensor,
    ) -> tuple[Tensor, ...]:
        """Choose the cells of one frame.

        Args:
            candidate_boxes: P candidates, for them and the next six see
                `export.maskrcnn.network.MaskRcnnTile`.
            candidate_scores: likewise.
            candidate_ids: likewise.
            candidate_probs: likewise.
            candidate_masks: likewise.
            whole: likewise.
            large_cut: likewise.
            overlap_threshold: float32 ``[1]``, share of the smaller mask above which the
                lower-ranked of two cells is dropped, see `training.postprocessing.merge_cells`.
            max_cells: int32 ``[1]``, the cap.

        Returns:
            boxes float32 ``[N, 4]`` in frame pixels, scores float32 ``[N]`` (descending),
            detected_ids int32 ``[N]``, detected_probs float32 ``[N, K]``, masks uint8
            ``[N, M, M]``, cells_found int32 ``[1]`` before the cap, then boxes and masks once more
            under names of their own.
        """
        kept, found = merge_cells(
            candidate_boxes,
            candidate_masks,
            candidate_scores,
            whole > 0,
            large_cut > 0,
            overlap_threshold,
            max_cells,
        )
        boxes = candidate_boxes.index_select(0, kept)
        masks = candidate_masks.index_select(0, kept)
        return (
            boxes,
            candidate_scores.index_select(0, kept),
            candidate_ids.index_select(0, kept),
            candidate_probs.index_select(0, kept),
            masks,
            found,
            boxes.clone(),
            masks.clone(),
        )
