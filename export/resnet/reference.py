"""Reference for `yolo_resnet`: the classes that the trained classifier gives in torch."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import torch

from cytoserve.contract import CROP_SIZE
from export.resnet.network import CLASSIFIER_CHUNK
from training.preprocessing.cutting import CellCrops
from training.preprocessing.normalise import PercentileLevels
from training.resnet.network import CellClassifier


def classify_cells(
    classifier: CellClassifier, camera: npt.NDArray[np.uint16], boxes: npt.NDArray[np.generic]
) -> npt.NDArray[np.int64]:
    """Class ids ``[N]`` of the cells in ``boxes`` ``[N, 4]`` of a frame ``[H, W, C]``."""
    frame = torch.from_numpy(camera.astype(np.int32))
    with torch.inference_mode():
        crops = CellCrops()(
            frame, PercentileLevels()(frame), torch.from_numpy(boxes.astype(np.float32))
        )
        chunks = crops[: len(boxes)].split(CLASSIFIER_CHUNK)
        ids = [classifier(chunk).argmax(dim=1).numpy() for chunk in chunks if len(chunk)]
    return np.concatenate([np.zeros(0, np.int64), *ids])


def classify_one_by_one(
    classifier: CellClassifier,
    rgb: npt.NDArray[np.uint8],
    polygons: list[npt.NDArray[np.float32]],
) -> npt.NDArray[np.int64]:
    """Classify as the study's second stage does: cut and resize every polygon's rectangle.

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
