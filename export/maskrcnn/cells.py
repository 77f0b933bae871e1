"""The step `maskrcnn_cells`: from the candidates in all tiles of a frame to its cells."""

from __future__ import annotations

from torch import Tensor, nn

from training.postprocessing import merge_cells


class MaskRcnnCells(nn.Module):
    """Answer each cell once, whatever classes it might have and whatever tiles it lies in."""

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
            candidate_boxes: boxes float32 ``[P, 4]`` of P candidates of
                `export.maskrcnn.network.MaskRcnnTile`, in frame pixels.
            candidate_scores: their scores float32 ``[P]``.
            candidate_ids: their class ids int32 ``[P]``.
            candidate_probs: their class probabilities float32 ``[P, K]``.
            candidate_masks: their mask patches uint8 ``[P, M, M]``.
            whole: int32 ``[P]``, 1 or 0, see `training.postprocessing.tile_cuts`.
            large_cut: int32 ``[P]``, 1 or 0, see there as well.
            overlap_threshold: float32 ``[1]``, share of the smaller mask above which the
                lower-ranked of two cells is dropped, see `training.postprocessing`.
            max_cells: int32 ``[1]``, the cap.

        Returns:
            boxes float32 ``[N, 4]`` in frame pixels, scores float32 ``[N]`` (descending),
            detected_ids int32 ``[N]``, detected_probs float32 ``[N, K]``, masks uint8
            ``[N, M, M]``, cells_found int32 ``[1]`` before the cap, then boxes and masks again
            under separate names.
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
