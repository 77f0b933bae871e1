"""Mask R-CNN from the tiles of a frame to its cells: `maskrcnn_network` and `maskrcnn_cells`."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN

from cytoserve.contract import DEFAULT_MAX_CELLS, MASK_SIZE
from export.maskrcnn.heads import PYRAMID_LEVELS, BoxHead, MaskHead, scripted
from training.postprocessing import NonMaximumSuppression, merge_cells, tile_cuts

MIN_SIDE = 1e-2
"""Minimum side of a cell's box in network pixels, as in torchvision."""

BOX_OVERLAP = 0.7
"""IoU above which the lower-scored of two boxes of one class and tile is dropped early.

This happens before masks are predicted and only saves work: the step `maskrcnn_cells` decides by
masks."""


class MaskRcnnTile(nn.Module):
    """torchvision's Mask R-CNN on one tile of any size, with thresholds as inputs.

    Layers and rules are those of torchvision's forward, written so that one graph takes every size:
    sizes are tensors, pyramid scales are those of the network, anchors are made for the tile at
    hand, and both heads go through their boxes in chunks. The tile is not resized: its pixels are
    network pixels. NMS is per class, as in torchvision: one proposal may be a cell of two classes.

    Args:
        network: a trained network; it is copied.
    """

    def __init__(self, network: MaskRCNN) -> None:
        super().__init__()
        network = copy.deepcopy(network).eval()
        self.backbone = network.backbone
        self.rpn = network.rpn
        self.transform = network.transform
        self.box_coder = network.roi_heads.box_coder
        self.label_count: int = network.roi_heads.box_predictor.cls_score.out_features
        self.box_head = scripted(BoxHead(network.roi_heads))
        self.mask_head = scripted(MaskHead(network.roi_heads, MASK_SIZE))

    def forward(
        self,
        network_tiles: Tensor,
        tile_origins: Tensor,
        tiling: Tensor,
        score_threshold: Tensor,
        overlap_threshold: Tensor,
    ) -> tuple[Tensor, ...]:
        """Find the cells of one tile.

        Args:
            network_tiles: one tile of `training.preprocessing.cutting.FrameTiles`, uint8
                ``[1, 3, h, w]``.
            tile_origins: corner of the tile, float32 ``[1, 2]``.
            tiling: tiling of the frame, float32 ``[5]``.
            score_threshold: float32 ``[1]``, which a cell's score must exceed.
            overlap_threshold: float32 ``[1]``, IoU above which the lower-scored box of the same
                class is dropped; `BOX_OVERLAP` at least.

        Returns:
            candidate_boxes float32 ``[P, 4]`` in frame pixels, candidate_scores float32 ``[P]``,
            candidate_ids int32 ``[P]``, 0..K-1, candidate_probs float32 ``[P, K]`` (without
            background), candidate_masks uint8 ``[P, M, M]``, and whole and large_cut int32 ``[P]``,
            1 or 0, see `training.postprocessing.tile_cuts`. At most `DEFAULT_MAX_CELLS`
            are returned, the best-scored first.
        """
        size = torch._shape_as_tensor(network_tiles)[-2:]
        images = self._padded(network_tiles, size)
        levels = list(self.backbone(images).values())
        proposals = self._proposals(levels, torch._shape_as_tensor(images)[-2:], _limits(size))

        logits, deltas = self.box_head(*levels[:PYRAMID_LEVELS], proposals)
        probabilities = torch.softmax(logits, dim=1)
        class_boxes = self.box_coder.decode_single(deltas, proposals)
        cells = [
            self._cells_of(
                label,
                probabilities[:, label],
                _clipped(class_boxes[:, 4 * label : 4 * label + 4], _limits(size)),
                score_threshold,
                torch.clamp(overlap_threshold, min=BOX_OVERLAP),
            )
            for label in range(1, self.label_count)
        ]
        boxes, scores, labels, rows = (torch.cat(parts) for parts in zip(*cells, strict=True))
        best = torch.sort(scores, descending=True).indices[:DEFAULT_MAX_CELLS]
        boxes, labels = boxes.index_select(0, best), labels.index_select(0, best)
        masks = self.mask_head(*levels[:PYRAMID_LEVELS], boxes, labels)
        whole, large_cut = self._cuts(boxes, size, tile_origins, tiling)
        return (
            self._on_frame(boxes, tile_origins, tiling),
            scores.index_select(0, best),
            (labels - 1).to(torch.int32),
            probabilities[:, 1:].index_select(0, rows.index_select(0, best)),
            masks,
            whole.to(torch.int32),
            large_cut.to(torch.int32),
        )

    def _padded(self, pixels: Tensor, size: Tensor) -> Tensor:
        """The image float32 ``[1, 3, h, w]`` that the backbone sees.

        Zeros to the right and below make its sides multiples of the coarsest level's stride.
        """
        mean = torch.tensor(self.transform.image_mean)[:, None, None]
        std = torch.tensor(self.transform.image_std)[:, None, None]
        images = (pixels.float() / 255 - mean) / std
        stride = self.transform.size_divisible
        padding = (stride - size % stride) % stride
        return nn.functional.pad(images, (0, padding[1], 0, padding[0]))

    def _cuts(
        self, boxes: Tensor, size: Tensor, origin: Tensor, tiling: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Apply `tile_cuts` to the boxes of one tile, which does not see the corners of others.

        The first tile begins where the frame begins, and the last one ends where it ends.
        """
        side = size.flip(0).float()
        first = torch.zeros_like(origin)
        last = torch.round(tiling[2:4].flip(0) * tiling[0:2]) - side
        tile = torch.zeros_like(boxes[:, 0]).long()
        corners = torch.cat([origin, first, last[None]])
        return tile_cuts(boxes, tile, corners, side, tiling[4])

    def _on_frame(self, boxes: Tensor, origin: Tensor, tiling: Tensor) -> Tensor:
        """Convert ``boxes`` from pixels of the tile at ``origin`` to pixels inside the frame."""
        placed = (boxes + origin.repeat(1, 2)) / tiling[0:2].repeat(2)
        return _clipped(placed, tiling[2:4].flip(0).repeat(2))

    def _proposals(self, levels: list[Tensor], padded: Tensor, limits: Tensor) -> Tensor:
        """The best boxes float32 ``[P, 4]`` of all levels, in pixels of the tile."""
        found = [
            self._proposals_of(logits, deltas, anchors, padded, limits)
            for logits, deltas, anchors in zip(
                *self.rpn.head(levels), self.rpn.anchor_generator.cell_anchors, strict=True
            )
        ]
        boxes, scores = (torch.cat(parts) for parts in zip(*found, strict=True))
        return boxes.index_select(0, _best(scores, self.rpn.post_nms_top_n()))

    def _proposals_of(
        self, logits: Tensor, deltas: Tensor, anchors: Tensor, padded: Tensor, limits: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Boxes and scores that NMS keeps on one level; only the best cells get anchors."""
        grid = torch._shape_as_tensor(logits)[-2:]
        scores = logits[0].permute(1, 2, 0).reshape(-1)
        deltas = deltas.reshape(len(anchors), 4, -1).permute(2, 0, 1).reshape(-1, 4)
        best = _best(scores, self.rpn.pre_nms_top_n())
        cell = torch.div(best, len(anchors), rounding_mode="floor")
        row = torch.div(cell, grid[1], rounding_mode="floor")
        stride = torch.div(padded, grid, rounding_mode="floor")
        x, y = (cell - row * grid[1]) * stride[1], row * stride[0]
        corners = torch.stack([x, y, x, y], dim=1).float()
        corners = corners + anchors.index_select(0, best % len(anchors))
        boxes = _clipped(
            self.rpn.box_coder.decode_single(deltas.index_select(0, best), corners), limits
        )
        scores = torch.sigmoid(scores.index_select(0, best))
        kept = _sides(boxes).amin(dim=1) >= self.rpn.min_size
        kept = torch.nonzero(kept & (scores >= self.rpn.score_thresh))[:, 0]
        boxes, scores = boxes.index_select(0, kept), scores.index_select(0, kept)
        threshold = torch.tensor([self.rpn.nms_thresh])
        kept = NonMaximumSuppression.apply(boxes, scores, threshold)
        return boxes.index_select(0, kept), scores.index_select(0, kept)

    def _cells_of(
        self,
        label: int,
        scores: Tensor,
        boxes: Tensor,
        score_threshold: Tensor,
        overlap_threshold: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Boxes, scores, labels and proposal rows of the cells of one class."""
        rows = (scores > score_threshold) & (_sides(boxes).amin(dim=1) >= MIN_SIDE)
        rows = torch.nonzero(rows)[:, 0]
        kept = NonMaximumSuppression.apply(
            boxes.index_select(0, rows), scores.index_select(0, rows), overlap_threshold
        )
        rows = rows.index_select(0, kept)
        labels = torch.full_like(rows, label)
        return boxes.index_select(0, rows), scores.index_select(0, rows), labels, rows


def _limits(size: Tensor) -> Tensor:
    """(w, h, w, h) float32 of a size (h, w)."""
    return size.flip(0).repeat(2).float()


def _clipped(boxes: Tensor, limits: Tensor) -> Tensor:
    return torch.minimum(torch.clamp(boxes, min=0.0), limits)


def _sides(boxes: Tensor) -> Tensor:
    return boxes[:, 2:] - boxes[:, :2]


def _best(scores: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` largest scores, or of all where there are fewer."""
    rows = torch._shape_as_tensor(scores)[0]
    kept = torch.clamp(rows, max=count)
    return torch.topk(scores, kept).indices  # type: ignore[arg-type]  # not a number


class MaskRcnnNetwork(nn.Module):
    """`MaskRcnnTile` on the tiles of a frame, one after the other."""

    def __init__(self, network: MaskRCNN) -> None:
        super().__init__()
        self.tile = MaskRcnnTile(network)

    def forward(
        self,
        network_tiles: Tensor,
        tile_origins: Tensor,
        tiling: Tensor,
        score_threshold: Tensor,
        overlap_threshold: Tensor,
    ) -> tuple[Tensor, ...]:
        """Find candidates for cells in T tiles ``[T, 3, h, w]``; see :class:`MaskRcnnTile`."""
        found = [
            self.tile(tile, origin, tiling, score_threshold, overlap_threshold)
            for tile, origin in zip(
                torch.split(network_tiles, 1), torch.split(tile_origins, 1), strict=True
            )
        ]
        return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


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
