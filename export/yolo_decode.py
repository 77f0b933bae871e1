"""From YOLO's raw predictions to finished cells: the step `yolo_decode`."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from cytoserve.contract import MASK_SIZE, PROTOTYPES
from export.nms import NonMaximumSuppression

COEFFICIENTS = PROTOTYPES.dims[0]
PROTOTYPE_STRIDE = 4
"""Network pixels per prototype pixel."""

CHUNK = 64
"""Cells whose masks are decoded at once. A cell's prototype-sized mask takes 100 kB, 32 times its
patch; in chunks this is paid for 64 cells, not for thousands."""

INSIDE = 128
"""A patch value of at least this is inside the cell (probability 0.5)."""


def _mask_patches(
    coefficients: Tensor, prototypes: Tensor, boxes: Tensor, size: int, chunk: int
) -> Tensor:
    """Probability patches uint8 ``[N, size, size]`` of boxes ``[N, 4]`` in prototype pixels."""
    channels, height, width = prototypes.shape
    flat = prototypes.reshape(channels, height * width)
    patches = torch.zeros((0, size, size), dtype=torch.uint8)
    for start in range(0, coefficients.shape[0], chunk):
        logits = torch.matmul(coefficients[start : start + chunk], flat)
        own_image = torch.arange(logits.shape[0]).to(boxes.dtype).unsqueeze(1)
        rois = torch.cat([own_image, boxes[start : start + chunk]], dim=1)
        # One sample at the centre of every patch pixel: bilinear interpolation of the logits.
        sampled = torch.ops.torchvision.roi_align(
            logits.reshape(-1, 1, height, width), rois, 1.0, size, size, 1, True
        )
        patch = torch.round(torch.sigmoid(sampled[:, 0]) * 255).to(torch.uint8)
        patches = torch.cat([patches, patch])
    return patches


with warnings.catch_warnings():
    # Scripted, so that the loop reaches the graph as a loop: only the tracing exporter, which
    # knows nothing else, can follow NMS.
    warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", FutureWarning)
    _scripted_mask_patches = torch.jit.script(_mask_patches)


class YoloDecode(nn.Module):
    """Threshold, class-agnostic NMS, cap and mask patches.

    What ultralytics' predictor does with ``agnostic_nms`` and ``retina_masks``, except that masks
    stay patches in their boxes. One cell is one answer, whatever classes it might have.
    Detections without area or without any mask pixel are no cells and are left out.
    """

    def forward(
        self,
        predictions: Tensor,
        prototypes: Tensor,
        letterbox: Tensor,
        score_threshold: Tensor,
        overlap_threshold: Tensor,
        max_cells: Tensor,
    ) -> tuple[Tensor, ...]:
        """Decode the answer to one frame.

        Args:
            predictions: float32 ``[1, 4 + K + 32, A]``: centre x, y, width, height in network
                pixels, K class scores, 32 mask coefficients, for A anchors.
            prototypes: float32 ``[1, 32, S / 4, S / 4]``.
            letterbox: float32 ``[6]``, see `training.letterbox.PrepareFrame`.
            score_threshold: float32 ``[1]``, a detection's best class score is above it.
            overlap_threshold: float32 ``[1]``, IoU above which the lower-scored box is dropped.
            max_cells: int32 ``[1]``, the cap.

        Returns:
            boxes float32 ``[N, 4]`` in frame pixels, scores float32 ``[N]`` (descending),
            detected_ids int32 ``[N]``, detected_probs float32 ``[N, K]``, masks uint8
            ``[N, M, M]``, cells_found int32 ``[1]`` before the cap, then boxes and masks once
            more under names of their own, and frame_size int32 ``[2]`` (H, W).
        """
        anchors = predictions[0].transpose(0, 1)
        class_scores = anchors[:, 4:-COEFFICIENTS]
        best = class_scores.amax(dim=1)
        candidates = torch.nonzero(best > score_threshold)[:, 0]
        anchors = anchors.index_select(0, candidates)
        corners = _corners(anchors[:, :4])
        selected = NonMaximumSuppression.apply(
            corners, best.index_select(0, candidates), overlap_threshold
        )
        found = torch._shape_as_tensor(selected)[0]
        anchors = anchors.index_select(0, selected[: max_cells[0].long()])

        scale, padding = letterbox[0:2].repeat(2), letterbox[2:4].repeat(2)
        frame_size = letterbox[4:6]
        limits = frame_size.flip(0).repeat(2)
        boxes = (_corners(anchors[:, :4]) - padding) / scale
        boxes = torch.minimum(torch.clamp(boxes, min=0.0), limits)
        on_prototypes = (boxes * scale + padding) / PROTOTYPE_STRIDE
        coefficients = anchors[:, -COEFFICIENTS:]
        masks = _scripted_mask_patches(coefficients, prototypes[0], on_prototypes, MASK_SIZE, CHUNK)

        has_area = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        has_mask = masks.flatten(1).to(torch.int32).amax(dim=1) >= INSIDE
        cells = torch.nonzero(has_area & has_mask)[:, 0]
        dropped = torch._shape_as_tensor(boxes)[0] - torch._shape_as_tensor(cells)[0]
        boxes, masks = boxes.index_select(0, cells), masks.index_select(0, cells)
        probabilities = anchors[:, 4:-COEFFICIENTS].index_select(0, cells)
        return (
            boxes,
            probabilities.amax(dim=1),
            probabilities.argmax(dim=1).to(torch.int32),
            probabilities,
            masks,
            (found - dropped).to(torch.int32).reshape(1),
            boxes.clone(),
            masks.clone(),
            frame_size.to(torch.int32),
        )


def _corners(boxes: Tensor) -> Tensor:
    """Centre and size ``[N, 4]`` to (x0, y0, x1, y1)."""
    half = boxes[:, 2:] / 2
    return torch.cat([boxes[:, :2] - half, boxes[:, :2] + half], dim=1)
