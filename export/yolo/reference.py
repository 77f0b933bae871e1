"""Reference for YOLO11n-seg: ultralytics' own network and NMS, which pipelines must equal.

`UltralyticsYolo.predict` on a whole frame works as study S1 does; the served pipelines are timed
against it.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import interpolate

from cytoserve.contract import DEFAULT_MAX_CELLS, MAX_CANDIDATES, NETWORK_SIZE
from export.parity.reference import MARGIN, ReferenceCells, frame_grid, merge_tiles, scaled_rgb
from training.preprocessing.cutting import PADDING_VALUE, padding_before
from training.yolo.decode import BOX_OVERLAP, mended_boxes
from training.yolo.network import MODEL_FILE, SegmentationModel, all_threads

from ultralytics import YOLO  # isort: skip  # after training.yolo.network, which keeps ultralytics offline
from ultralytics.utils.nms import non_max_suppression  # isort: skip


class UltralyticsYolo:
    """ultralytics' own prediction with one of our networks.

    Args:
        network: a trained YOLO11n-seg; it is copied.
        masks_on_frame: compute masks at the frame's resolution (``retina_masks``), as a comparison
            needs; ultralytics' default is the network's resolution.
    """

    library = "ultralytics"

    def __init__(self, network: SegmentationModel, masks_on_frame: bool = True) -> None:
        self.yolo: Any = YOLO(MODEL_FILE, task="segment", verbose=False)
        self.yolo.model = copy.deepcopy(network).eval()
        self.masks_on_frame = masks_on_frame

    def predict(
        self, rgb: npt.NDArray[np.uint8], score_threshold: float, overlap_threshold: float
    ) -> Any:
        """ultralytics' ``Results`` for an 8-bit RGB image ``[H, W, 3]``."""
        with all_threads():
            return self.yolo.predict(
                np.ascontiguousarray(rgb[:, :, ::-1]),  # ultralytics takes BGR
                conf=score_threshold,
                iou=overlap_threshold,
                imgsz=NETWORK_SIZE,
                rect=False,
                agnostic_nms=True,
                max_det=DEFAULT_MAX_CELLS,
                retina_masks=self.masks_on_frame,
                verbose=False,
            )[0]

    def cells(
        self,
        camera: npt.NDArray[np.generic],
        scale: float,
        tile_overlap: float,
        score_threshold: float,
        overlap_threshold: float,
    ) -> ReferenceCells:
        """Find cells by ultralytics' network and NMS on every tile.

        See `export.parity.reference.Detector`. Where a mask extends beyond its box, the box is
        widened by the served rule. torch interpolates masks over the whole tile.
        """
        camera = np.atleast_3d(camera)
        scaled = scaled_rgb(camera, scale)
        grid = frame_grid((camera.shape[0], camera.shape[1]), scale, tile_overlap, NETWORK_SIZE)
        width, height = (int(side) for side in grid.tile_size)
        left, top = padding_before(width, NETWORK_SIZE), padding_before(height, NETWORK_SIZE)
        tiles = []
        for x, y in grid.origins:
            tile = np.full((NETWORK_SIZE, NETWORK_SIZE, 3), PADDING_VALUE, np.uint8)
            tile[top : top + height, left : left + width] = scaled[
                int(y) : int(y) + height, int(x) : int(x) + width
            ]
            content = (left, top, left + width, top + height)
            overlap = max(overlap_threshold, BOX_OVERLAP)
            tiles.append(self._tile(tile, content, score_threshold, overlap))
        grid = replace(
            grid,
            origins=[(x - left, y - top) for x, y in grid.origins],
            tile_size=(NETWORK_SIZE, NETWORK_SIZE),
        )
        return merge_tiles(tiles, grid, overlap_threshold, MARGIN)

    def _tile(
        self,
        rgb: npt.NDArray[np.uint8],
        content: tuple[int, int, int, int],
        score_threshold: float,
        box_overlap: float,
    ) -> ReferenceCells:
        """Find the cells of one tile uint8 ``[S, S, 3]``, which shows the frame in ``content``."""
        network = self.yolo.model
        image = torch.from_numpy(rgb.transpose(2, 0, 1)[None] / np.float32(255))
        with torch.inference_mode():
            answer = network(image)
            predictions, prototypes = answer[0] if isinstance(answer[0], tuple) else answer[:2]
            [found] = non_max_suppression(
                predictions,
                score_threshold,
                box_overlap,
                nc=len(network.names),
                agnostic=True,
                max_det=MAX_CANDIDATES,
                max_nms=predictions.shape[2],
            )
            boxes = mended_boxes(found[:, :4], found[:, 6:], prototypes, content)
            probabilities = np.zeros((len(found), *rgb.shape[:2]), np.float32)
            for plane, coefficients in zip(probabilities, found[:, 6:], strict=True):
                logits = (coefficients @ prototypes[0].flatten(1)).reshape(
                    1, 1, *prototypes.shape[2:]
                )
                enlarged = interpolate(logits, rgb.shape[:2], mode="bicubic")
                plane[:] = torch.sigmoid(enlarged[0, 0]).numpy()
        return ReferenceCells(
            boxes.numpy(),
            found[:, 4].numpy(),
            found[:, 5].numpy().astype(np.int64),
            probabilities >= 0.5,
            probabilities,
        )
