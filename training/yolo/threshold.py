"""Score threshold of a trained YOLO, chosen on validation frames, as served."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cytoserve.cells import Cells
from cytoserve.contract import DEFAULT_MAX_CELLS, NETWORK_SIZE, OVERLAP_THRESHOLD
from training.checkpoint import ChosenThreshold, LearnedScale
from training.datasets.annotated import AnnotatedDataset
from training.evaluation import LOWEST, choose_score_threshold, validation_frames
from training.preprocessing.cutting import NetworkTiles
from training.yolo.decode import YoloDecode
from training.yolo.network import SegmentationModel, YoloNetwork

TILES_AT_ONCE = 2
"""Number of tiles per pass through the network."""


class YoloPipeline(nn.Module):
    """Runs the modules of the served pipeline `yolo` in sequence on one frame."""

    def __init__(self, network: SegmentationModel) -> None:
        super().__init__()
        self.prepare, self.network, self.decode = NetworkTiles(), YoloNetwork(network), YoloDecode()

    def forward(
        self, image: Tensor, scale: float, tile_overlap: float, score_threshold: float
    ) -> tuple[Tensor, ...]:
        """Find the cells of ``image`` int32 ``[H, W, C]``; outputs as in ``YoloDecode``."""
        tiles, origins, tiling, _ = self.prepare(
            image, torch.tensor([scale]), torch.tensor([tile_overlap])
        )
        answers = [self.network(part) for part in tiles.split(TILES_AT_ONCE)]
        predictions, prototypes = (torch.cat(parts) for parts in zip(*answers, strict=True))
        decoded: tuple[Tensor, ...] = self.decode(
            predictions,
            prototypes,
            origins,
            tiling,
            torch.tensor([score_threshold]),
            torch.tensor([OVERLAP_THRESHOLD]),
            torch.tensor([DEFAULT_MAX_CELLS], dtype=torch.int32),
        )
        return decoded


def yolo_threshold(
    network: SegmentationModel, validation: AnnotatedDataset, scale: LearnedScale, seed: int
) -> ChosenThreshold:
    """Choose the score threshold of a network, see `training.evaluation`.

    Args:
        network: a trained network.
        validation: frames that were not used in training.
        scale: the scale that the network was trained at.
        seed: random seed of the empty frames.
    """
    pipeline = YoloPipeline(network).eval()
    overlap = scale.largest_cell_px * scale.network_scale

    def found(image: Tensor, common: float) -> Cells:
        with torch.inference_mode():
            answer = pipeline(image, scale.network_scale * common, overlap, LOWEST)
        boxes, scores, ids, probs, masks, count = (tensor.numpy() for tensor in answer[:6])
        height, width = image.shape[:2]
        names = validation.class_names
        return Cells(boxes, scores, ids, probs, masks, (height, width), names, int(count[0]))

    return choose_score_threshold(validation_frames(validation, found, scale, NETWORK_SIZE, seed))
