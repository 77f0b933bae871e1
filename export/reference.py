"""The study's way of running the same weights: ultralytics' predictor, then a loop over crops.

What the served pipelines are proven equal to, and what they are timed against.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt
import torch

from cytoserve.contract import CROP_SIZE, MAX_CELLS, NETWORK_SIZE
from training.classifier import CellClassifier
from training.normalise import PercentileLevels, as_rgb, to_8_bit
from training.yolo_network import MODEL_FILE, SegmentationModel, all_threads

from ultralytics import YOLO  # isort: skip  # after yolo_network, which keeps ultralytics offline


@dataclass(frozen=True)
class ReferenceCells:
    """What the study's way finds in one frame, sorted by score."""

    boxes: npt.NDArray[np.float32]
    """``[N, 4]`` (x0, y0, x1, y1) in frame pixels."""
    scores: npt.NDArray[np.float32]
    """``[N]``."""
    class_ids: npt.NDArray[np.int64]
    """``[N]``."""
    masks: npt.NDArray[np.bool_]
    """``[N, H, W]``."""
    probabilities: npt.NDArray[np.float32] | None = None
    """``[N, H, W]``, 0..1, that the masks are cut from; None where the library keeps none."""


class Detector(Protocol):
    """A trained network in the hands of the library that trained it."""

    library: str
    """Its name."""

    def cells(
        self, rgb: npt.NDArray[np.uint8], score_threshold: float, overlap_threshold: float
    ) -> ReferenceCells:
        """What it finds in an 8-bit RGB image ``[H, W, 3]``."""


def normalised_rgb(image: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """The camera frame ``[H, W]`` or ``[H, W, C]`` as the 8-bit RGB image of study scripts."""
    camera = torch.from_numpy(np.atleast_3d(image).astype(np.int32))
    values = to_8_bit(camera.float(), PercentileLevels()(camera))
    rgb: npt.NDArray[np.uint8] = as_rgb(values, channel_dim=2).numpy()
    return rgb


class UltralyticsYolo:
    """ultralytics' own prediction with a network of ours.

    Args:
        network: a trained YOLO11n-seg; it is copied.
        masks_on_frame: compute masks at the frame's resolution (``retina_masks``), as a
            comparison wants it; ultralytics' default computes them at the network's.
    """

    library = "ultralytics"

    def __init__(self, network: SegmentationModel, masks_on_frame: bool = True) -> None:
        self.yolo: Any = YOLO(MODEL_FILE, task="segment", verbose=False)
        self.yolo.model = copy.deepcopy(network).eval()
        self.masks_on_frame = masks_on_frame

    def predict(
        self, rgb: npt.NDArray[np.uint8], score_threshold: float, overlap_threshold: float
    ) -> Any:
        """ultralytics' ``Results`` of an 8-bit RGB image ``[H, W, 3]``."""
        with all_threads():
            return self.yolo.predict(
                np.ascontiguousarray(rgb[:, :, ::-1]),  # ultralytics takes BGR
                conf=score_threshold,
                iou=overlap_threshold,
                imgsz=NETWORK_SIZE,
                rect=False,
                agnostic_nms=True,
                max_det=MAX_CELLS,
                retina_masks=self.masks_on_frame,
                verbose=False,
            )[0]

    def cells(
        self, rgb: npt.NDArray[np.uint8], score_threshold: float, overlap_threshold: float
    ) -> ReferenceCells:
        """The prediction as arrays."""
        result = self.predict(rgb, score_threshold, overlap_threshold)
        shape = rgb.shape[:2]
        masks = result.masks.data.bool().numpy() if result.masks else np.zeros((0, *shape), bool)
        return ReferenceCells(
            result.boxes.xyxy.numpy(),
            result.boxes.conf.numpy(),
            result.boxes.cls.numpy().astype(np.int64),
            masks,
        )


def classify_one_by_one(
    classifier: CellClassifier,
    rgb: npt.NDArray[np.uint8],
    polygons: list[npt.NDArray[np.float32]],
) -> npt.NDArray[np.int64]:
    """The study's second stage: cut each polygon's rectangle, resize it, ask the classifier.

    Returns class ids ``[N]``; polygons are ``[P, 2]`` (x, y) in frame pixels.
    """
    height, width = rgb.shape[:2]
    class_ids = []
    for polygon in polygons:
        x0, y0 = np.clip(np.floor(polygon.min(axis=0)), 0, (width - 1, height - 1)).astype(int)
        x1, y1 = np.clip(np.ceil(polygon.max(axis=0)), (x0 + 1, y0 + 1), (width, height)).astype(
            int
        )
        crop = cv2.resize(rgb[y0:y1, x0:x1], (CROP_SIZE, CROP_SIZE), interpolation=cv2.INTER_AREA)
        with torch.inference_mode():
            logits = classifier(torch.from_numpy(crop).permute(2, 0, 1)[None])
        class_ids.append(int(logits.argmax()))
    return np.array(class_ids, np.int64)
