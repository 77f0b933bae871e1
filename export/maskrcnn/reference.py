"""Reference for Mask R-CNN: torchvision's own forward, on whole frames or tile by tile.

The served pipeline is proven equal to this code and timed against it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops.poolers import initLevelMapper

from cytoserve.contract import DEFAULT_MAX_CELLS, MASKRCNN_TILE_SIZE, PROBABILITY_THRESHOLD
from export.maskrcnn.network import BOX_OVERLAP
from export.parity.reference import MARGIN, ReferenceCells, frame_grid, merge_tiles, scaled_rgb
from training.maskrcnn.network import keep_sizes

CELLS_AT_ONCE = 64
"""Number of masks of a tile's size that are made at once: 4 MB each."""

KEYS = ("boxes", "scores", "labels", "masks")
"""Names of the values that torchvision returns."""

FINEST, COARSEST = 2, 5
"""Pyramid levels that boxes are pooled from; level ``i`` has ``2 ** i`` pixels per grid cell."""


class TorchvisionMaskRcnn:
    """torchvision's own prediction with one of our networks.

    Args:
        network: a trained Mask R-CNN; it is copied.
    """

    library = "torchvision"

    def __init__(self, network: MaskRCNN) -> None:
        self.network = copy.deepcopy(network).eval()
        self.network.roi_heads.detections_per_img = DEFAULT_MAX_CELLS
        for pool in (self.network.roi_heads.box_roi_pool, self.network.roi_heads.mask_roi_pool):
            # torchvision guesses the scales from the first frame, and guesses wrong for a tiny one.
            pool.scales = [2.0**-level for level in range(FINEST, COARSEST + 1)]
            pool.map_levels = initLevelMapper(FINEST, COARSEST)

    def predict(
        self, rgb: npt.NDArray[np.uint8], score_threshold: float, overlap_threshold: float
    ) -> dict[str, Tensor]:
        """torchvision's ``boxes``, ``labels``, ``scores`` and ``masks`` of an image ``[H, W, 3]``.

        The image is 8-bit RGB; torchvision resizes it as a whole, as the study does.
        """
        self.network.roi_heads.score_thresh = score_threshold
        self.network.roi_heads.nms_thresh = overlap_threshold
        image = torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1))).float() / 255
        with torch.inference_mode():
            [found] = self.network([image])
        return dict(found)

    def cells(
        self,
        camera: npt.NDArray[np.generic],
        scale: float,
        tile_overlap: float,
        score_threshold: float,
        overlap_threshold: float,
    ) -> ReferenceCells:
        """Find cells by torchvision's own forward on every tile.

        See `export.parity.reference.Detector`.
        """
        camera = np.atleast_3d(camera)
        size = (camera.shape[0], camera.shape[1])
        grid = frame_grid(size, scale, tile_overlap, MASKRCNN_TILE_SIZE)
        scaled = scaled_rgb(camera, scale)
        width, height = grid.tile_size
        tiles = (
            self.tile(
                scaled[int(y) : int(y + height), int(x) : int(x + width)],
                score_threshold,
                max(overlap_threshold, BOX_OVERLAP),
            )
            for x, y in grid.origins
        )
        return merge_tiles(tiles, grid, overlap_threshold, MARGIN)

    def tile(
        self, rgb: npt.NDArray[np.uint8], score_threshold: float, overlap_threshold: float
    ) -> Iterator[ReferenceCells]:
        """Yield the prediction for one tile, which is not resized, in parts of `CELLS_AT_ONCE`."""
        resizing = self.network.transform
        keep_sizes(self.network, paste=False)
        try:
            found = self.predict(rgb, score_threshold, overlap_threshold)
        finally:
            self.network.transform = resizing
        cells = zip(*(torch.split(found[key], CELLS_AT_ONCE) for key in KEYS), strict=True)
        for boxes, scores, labels, masks in cells:
            pasted = paste_masks_in_image(masks, boxes, (rgb.shape[0], rgb.shape[1]))
            probabilities = pasted[:, 0].numpy()
            yield ReferenceCells(
                boxes.numpy(),
                scores.numpy(),
                labels.numpy() - 1,  # torchvision's 0 is background
                probabilities >= PROBABILITY_THRESHOLD,
                probabilities,
            )
