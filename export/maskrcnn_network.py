"""Mask R-CNN from 8-bit RGB to finished cells: the step `maskrcnn_network`."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN

from cytoserve.contract import MASK_SIZE
from export.maskrcnn_heads import LEVELS, BoxHead, MaskHead, scripted
from export.nms import NonMaximumSuppression

LEAST_SIDE = 1e-2
"""torchvision's least side of a cell's box, in pixels of the resized image."""


class MaskRcnnNetwork(nn.Module):
    """torchvision's Mask R-CNN on one frame of any size, its thresholds inputs.

    The same layers and the same rules as torchvision's forward, written so that one graph takes
    every frame size: sizes are tensors, pyramid scales are those of the network, anchors are made
    of the frame at hand, and both heads go through their boxes in chunks. NMS is per class, as in
    torchvision: one proposal may be a cell of two classes.

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
        normalised_rgb: Tensor,
        score_threshold: Tensor,
        overlap_threshold: Tensor,
        max_cells: Tensor,
    ) -> tuple[Tensor, ...]:
        """Find the cells of one frame.

        Args:
            normalised_rgb: uint8 ``[1, 3, H, W]``, see `training.normalise`.
            score_threshold: float32 ``[1]``, a cell's score is above it.
            overlap_threshold: float32 ``[1]``, IoU above which the lower-scored box of the same
                class is dropped.
            max_cells: int32 ``[1]``, the cap.

        Returns:
            boxes float32 ``[N, 4]`` in frame pixels, scores float32 ``[N]`` (descending),
            detected_ids int32 ``[N]``, 0..K-1, detected_probs float32 ``[N, K]`` (background left
            out), masks uint8 ``[N, M, M]``, cells_found int32 ``[1]`` before the cap, then boxes
            and masks once more under names of their own.
        """
        frame_size = torch._shape_as_tensor(normalised_rgb)[-2:]
        images, size = self._resized(normalised_rgb, frame_size)
        levels = list(self.backbone(images).values())
        proposals = self._proposals(levels, torch._shape_as_tensor(images)[-2:], _limits(size))

        logits, deltas = self.box_head(*levels[:LEVELS], proposals)
        probabilities = torch.softmax(logits, dim=1)
        class_boxes = self.box_coder.decode_single(deltas, proposals)
        cells = [
            self._cells_of(
                label,
                probabilities[:, label],
                _clipped(class_boxes[:, 4 * label : 4 * label + 4], _limits(size)),
                score_threshold,
                overlap_threshold,
            )
            for label in range(1, self.label_count)
        ]
        boxes, scores, labels, rows = (torch.cat(parts) for parts in zip(*cells, strict=True))
        best = torch.sort(scores, descending=True).indices[: max_cells[0].long()]
        boxes, labels = boxes.index_select(0, best), labels.index_select(0, best)

        ratio = _limits(frame_size) / _limits(size)
        frame_boxes = torch.minimum(boxes * ratio, _limits(frame_size))
        masks = self.mask_head(*levels[:LEVELS], boxes, labels, frame_boxes)
        return (
            frame_boxes,
            scores.index_select(0, best),
            (labels - 1).to(torch.int32),
            probabilities[:, 1:].index_select(0, rows.index_select(0, best)),
            masks,
            torch._shape_as_tensor(scores)[0].to(torch.int32).reshape(1),
            frame_boxes.clone(),
            masks.clone(),
        )

    def _resized(self, pixels: Tensor, frame_size: Tensor) -> tuple[Tensor, Tensor]:
        """The image float32 ``[1, 3, h, w]`` that the backbone sees, and its size (h, w) without
        the zeros to the right and below that make it a multiple of the coarsest level."""
        sides = frame_size.double()
        # Vectors of one element: the exporter rounds 0-d doubles to float32, which may cost a row
        # of pixels.
        least = torch.tensor([self.transform.min_size[-1]], dtype=torch.float64)
        most = torch.tensor([self.transform.max_size], dtype=torch.float64)
        scale = torch.minimum(
            torch.div(least, sides.amin(dim=0, keepdim=True)),
            torch.div(most, sides.amax(dim=0, keepdim=True)),
        )
        # A side of a very long frame may come to nothing; torchvision refuses such a frame.
        size = torch.clamp((sides * scale).long(), min=1)
        mean = torch.tensor(self.transform.image_mean)[:, None, None]
        std = torch.tensor(self.transform.image_std)[:, None, None]
        images = (pixels.float() / 255 - mean) / std
        images = _interpolated(_interpolated(images, 2, size[0]), 3, size[1])
        stride = self.transform.size_divisible
        padding = (stride - size % stride) % stride
        return nn.functional.pad(images, (0, padding[1], 0, padding[0])), size

    def _proposals(self, levels: list[Tensor], padded: Tensor, limits: Tensor) -> Tensor:
        """The best boxes float32 ``[P, 4]`` of all levels, in pixels of the resized image."""
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
        """Boxes and scores that NMS keeps on one level; anchors are made of the best cells only."""
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
        """Boxes, scores, labels and proposals' rows of the cells of one class."""
        rows = (scores > score_threshold) & (_sides(boxes).amin(dim=1) >= LEAST_SIDE)
        rows = torch.nonzero(rows)[:, 0]
        kept = NonMaximumSuppression.apply(
            boxes.index_select(0, rows), scores.index_select(0, rows), overlap_threshold
        )
        rows = rows.index_select(0, kept)
        labels = torch.full_like(rows, label)
        return boxes.index_select(0, rows), scores.index_select(0, rows), labels, rows


def _interpolated(images: Tensor, dim: int, length: Tensor) -> Tensor:
    """Images resized to ``length`` along one axis: torch's bilinear interpolation, no antialias.

    As gathers, for ONNX Runtime's Resize rounds positions otherwise than torch: on noise, scores
    of a network of random weights changed by 1e-3.
    """
    last = torch._shape_as_tensor(images)[dim] - 1
    scale = (last + 1).float() / length.float()
    pixels: Tensor = torch.arange(length)  # type: ignore[call-overload]  # not a number
    position = torch.clamp((pixels.float() + 0.5) * scale - 0.5, min=0.0)
    lower = torch.minimum(torch.floor(position).long(), last)
    upper = torch.minimum(lower + 1, last)
    shape = [1, 1, 1, 1]
    shape[dim] = -1
    weight = (position - lower.float()).reshape(shape)
    return images.index_select(dim, lower) * (1 - weight) + images.index_select(dim, upper) * weight


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
