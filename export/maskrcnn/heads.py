"""The heads of Mask R-CNN in chunks of boxes, so that thousands of them fit into memory."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import RoIHeads

PYRAMID_LEVELS = 4
"""Number of pyramid levels that boxes are pooled from; the finest has 4 pixels per grid cell."""

BOX_CHUNK = 128
"""Number of proposals that the box head takes at once: 6 MB per layer."""

MASK_CHUNK = 32
"""Number of cells that the mask head takes at once: 26 MB in its largest layer."""


class BoxHead(nn.Module):
    """Class logits and box deltas of proposals: RoIAlign, box head and box predictor.

    Args:
        heads: heads of a trained network.
        chunk: number of proposals taken at once.
    """

    def __init__(self, heads: RoIHeads, chunk: int = BOX_CHUNK) -> None:
        super().__init__()
        self.head = copy.deepcopy(heads.box_head)
        self.classes = copy.deepcopy(heads.box_predictor.cls_score)
        self.deltas = copy.deepcopy(heads.box_predictor.bbox_pred)
        self.size: int = heads.box_roi_pool.output_size[0]
        self.chunk = chunk

    def forward(
        self, p2: Tensor, p3: Tensor, p4: Tensor, p5: Tensor, proposals: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Classify ``proposals`` float32 ``[P, 4]`` in pixels of the tile.

        ``p2`` to ``p5`` are the pyramid's levels float32 ``[1, F, h, w]``. Returns class logits
        float32 ``[P, 1 + K]`` and box deltas float32 ``[P, (1 + K) * 4]``.
        """
        logits = torch.zeros((0, self.classes.out_features))
        deltas = torch.zeros((0, self.deltas.out_features))
        for start in range(0, proposals.shape[0], self.chunk):
            boxes = proposals[start : start + self.chunk]
            features = self.head(_pooled(p2, p3, p4, p5, boxes, self.size))
            logits = torch.cat([logits, self.classes(features)])
            deltas = torch.cat([deltas, self.deltas(features)])
        return logits, deltas


class MaskHead(nn.Module):
    """Mask patches of cells: RoIAlign, mask head, mask predictor, resampling.

    Args:
        heads: heads of a trained network.
        size: side M of the patches.
        chunk: number of cells taken at once.
    """

    def __init__(self, heads: RoIHeads, size: int, chunk: int = MASK_CHUNK) -> None:
        super().__init__()
        self.head = copy.deepcopy(heads.mask_head)
        self.predictor = copy.deepcopy(heads.mask_predictor)
        self.pooled_size: int = heads.mask_roi_pool.output_size[0]
        self.size = size
        self.chunk = chunk

    def forward(
        self,
        p2: Tensor,
        p3: Tensor,
        p4: Tensor,
        p5: Tensor,
        boxes: Tensor,
        labels: Tensor,
    ) -> Tensor:
        """Predict the masks of ``boxes`` float32 ``[N, 4]`` in pixels of the tile.

        ``p2`` to ``p5`` as for `BoxHead`; ``labels`` int64 ``[N]``, 1..K, choose the mask of the
        class. Returns patches uint8 ``[N, M, M]`` as `cytoserve.patches` lays them on the boxes.
        """
        patches = torch.zeros((0, self.size, self.size), dtype=torch.uint8)
        for start in range(0, boxes.shape[0], self.chunk):
            end = start + self.chunk
            features = _pooled(p2, p3, p4, p5, boxes[start:end], self.pooled_size)
            logits = self.predictor(self.head(features))
            side = logits.shape[3]
            own = labels[start:end].reshape(-1, 1, 1, 1).expand(-1, 1, side, side)
            masks = torch.sigmoid(torch.gather(logits, 1, own)[:, 0])
            rows = pasting_weights(boxes[start:end, 1], boxes[start:end, 3], side, self.size)
            columns = pasting_weights(boxes[start:end, 0], boxes[start:end, 2], side, self.size)
            resampled = torch.matmul(torch.matmul(rows, masks), columns.transpose(1, 2))
            patch = torch.round(torch.clamp(resampled, 0.0, 1.0) * 255).to(torch.uint8)
            patches = torch.cat([patches, patch])
        return patches


def scripted(module: nn.Module) -> Callable[..., Any]:
    """``module`` as a function that keeps its loops, which tracing would unroll.

    It is a function with constant weights, because the tracing exporter takes no scripted module
    that another one calls.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", FutureWarning)
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        frozen = torch.jit.freeze(torch.jit.script(module.eval()))
    graph = frozen.graph.copy()
    graph.eraseInput(0)  # the module itself, which is no longer read
    function: Callable[..., Any] = torch._C._create_function_from_graph("forward", graph)
    return function


def _pooled(p2: Tensor, p3: Tensor, p4: Tensor, p5: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Features float32 ``[N, F, size, size]`` of boxes ``[N, 4]``, each from its own level.

    This is what torchvision's MultiScaleRoIAlign does, except that the latter takes the levels'
    scales from the first frame that it sees and keeps them. The level is that of Lin et al. 2017
    (eq. 1), whose finest is 2.
    """
    canonical_size, canonical_level, samples = 224, 4, 2
    sides = torch.clamp(boxes[:, 2:] - boxes[:, :2], min=0.0)
    scale = torch.sqrt(sides[:, 0] * sides[:, 1]) / canonical_size
    level = torch.floor(canonical_level + torch.log2(scale) + 1e-6)
    level = torch.clamp(level, 2.0, 5.0)
    rois = torch.cat([torch.zeros_like(boxes[:, :1]), boxes], dim=1)
    on_2 = torch.nonzero(level == 2)[:, 0]
    on_3 = torch.nonzero(level == 3)[:, 0]
    on_4 = torch.nonzero(level == 4)[:, 0]
    on_5 = torch.nonzero(level == 5)[:, 0]
    align = torch.ops.torchvision.roi_align
    pooled = torch.cat(
        [
            align(p2, rois.index_select(0, on_2), 1 / 4, size, size, samples, False),
            align(p3, rois.index_select(0, on_3), 1 / 8, size, size, samples, False),
            align(p4, rois.index_select(0, on_4), 1 / 16, size, size, samples, False),
            align(p5, rois.index_select(0, on_5), 1 / 32, size, size, samples, False),
        ]
    )
    order = torch.cat([on_2, on_3, on_4, on_5])
    return pooled.index_select(0, torch.argsort(order))


def pasting_weights(low: Tensor, high: Tensor, side: int, size: int) -> Tensor:
    """Share of every mask pixel in every patch pixel along one axis: float32 ``[N, size, side]``.

    The patch is sampled where torchvision's `paste_masks_in_image` would sample the mask: it widens
    the mask by one pixel of zeros on each side, truncates the widened box to whole pixels, and
    resizes the mask to these. Patches include these roundings, so that they give torchvision's own
    masks on the tile.
    """
    centre, half = (low + high) * 0.5, (high - low) * 0.5 * ((side + 2) / side)
    start, end = (centre - half).long(), (centre + half).long()
    length = torch.clamp(end - start + 1, min=1).to(low.dtype)
    places = (torch.arange(size) + 0.5) / size
    position = low[:, None] + places * (high - low)[:, None] - start[:, None].to(low.dtype)
    sampled = position * ((side + 2) / length)[:, None] - 1.5
    return torch.clamp(1 - (sampled[:, :, None] - torch.arange(side)).abs(), min=0.0)
