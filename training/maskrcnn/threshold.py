"""Score threshold of a trained Mask R-CNN, chosen on whole validation frames, as served."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.models.detection import MaskRCNN

from cytoserve.cells import Cells
from cytoserve.contract import DEFAULT_MAX_CELLS, OVERLAP_THRESHOLD
from training.checkpoint import ChosenThreshold, LearnedScale
from training.datasets.annotated import AnnotatedDataset
from training.evaluation import choose_score_threshold, validation_frames
from training.maskrcnn.network import keep_sizes
from training.postprocessing import merge_cells, tile_cuts
from training.preprocessing.cutting import FrameTiles

LOWEST = 0.05
"""Score threshold at which the network is run to obtain all its cells. Below it, masks of hundreds
of boxes per frame would be predicted."""

BOX_OVERLAP = 0.7
"""IoU above which the lower-scored of two boxes of one class and tile is dropped before merging."""

BLANK_SIDE = 512
"""Side of the empty frames used in validation, in network pixels."""


def maskrcnn_threshold(
    network: MaskRCNN,
    validation: AnnotatedDataset,
    scale: LearnedScale,
    seed: int,
) -> ChosenThreshold:
    """Choose the score threshold of a network, on validation frames and frames of noise.

    Args:
        network: trained network. Its thresholds are changed, and it no longer resizes images.
        validation: frames that were not used in training.
        scale: scale that the network was trained at.
        seed: random seed of the frames of noise.
    """
    keep_sizes(network.eval(), paste=False)
    network.roi_heads.score_thresh = LOWEST
    network.roi_heads.nms_thresh = max(BOX_OVERLAP, OVERLAP_THRESHOLD)
    overlap = scale.largest_cell_px * scale.network_scale

    def found(image: Tensor, common: float) -> Cells:
        arrays = find_cells(network, image, scale.network_scale * common, overlap)
        boxes, scores, ids, probs, masks, count = (tensor.numpy() for tensor in arrays)
        height, width = image.shape[:2]
        names = validation.class_names
        return Cells(boxes, scores, ids, probs, masks, (height, width), names, int(count[0]))

    return choose_score_threshold(validation_frames(validation, found, scale, BLANK_SIDE, seed))


def find_cells(
    network: MaskRCNN, image: Tensor, scale: float, tile_overlap: float
) -> tuple[Tensor, ...]:
    """Find the cells of ``image`` int32 ``[H, W, C]``, tile by tile, as they are served.

    Args:
        network: network in evaluation mode, with its thresholds set and its masks not pasted, see
            :func:`maskrcnn_threshold`.
        image: camera values.
        scale: network pixels per frame pixel.
        tile_overlap: least overlap of neighbouring tiles in network pixels.

    Returns:
        boxes float32 ``[N, 4]`` in frame pixels, scores float32 ``[N]``, class ids int32 ``[N]``,
        class probabilities float32 ``[N, K]``, the score for the class and 0 for the others,
        masks uint8 ``[N, M, M]``, and cells found int32 ``[1]``.
    """
    tiles, origins, tiling, _ = FrameTiles()(
        image, torch.tensor([scale]), torch.tensor([tile_overlap])
    )
    with torch.inference_mode():
        parts = [_found_in(network, tile) for tile in tiles]
    boxes, scores, labels, masks = (torch.cat(values) for values in zip(*parts, strict=True))
    counts = torch.tensor([len(part[0]) for part in parts])
    index = torch.arange(len(parts)).repeat_interleave(counts)
    side = torch.tensor(tiles.shape[:1:-1]).float()
    whole, large_cut = tile_cuts(boxes, index, origins, side, tiling[4])
    boxes = (boxes + origins[index].repeat(1, 2)) / tiling[0:2].repeat(2)
    kept, found = merge_cells(
        boxes,
        masks,
        scores,
        whole,
        large_cut,
        torch.tensor([OVERLAP_THRESHOLD]),
        torch.tensor([DEFAULT_MAX_CELLS], dtype=torch.int32),
    )
    ids = labels[kept] - 1  # torchvision uses 0 for background
    classes = network.roi_heads.box_predictor.cls_score.out_features - 1
    probabilities = torch.nn.functional.one_hot(ids, classes) * scores[kept, None]
    return boxes[kept], scores[kept], ids.to(torch.int32), probabilities, masks[kept], found


def _found_in(network: MaskRCNN, tile: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Find the boxes, scores, labels and mask patches uint8 ``[n, M, M]`` of one tile."""
    [found] = network([tile.float() / 255])
    patches = torch.round(found["masks"][:, 0] * 255).to(torch.uint8)
    return found["boxes"], found["scores"], found["labels"], patches
