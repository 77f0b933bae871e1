"""The contenders of study S4, all with the same weights: pipelines and reference implementation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from segment_anything import SamPredictor
from segment_anything.modeling import Sam
from torchvision.models.detection import MaskRCNN

from benchmarks.instances.tables import NAMES
from cytoserve import Cells, Client
from cytoserve.contract import OVERLAP_THRESHOLD
from export.maskrcnn.reference import TorchvisionMaskRcnn

Image = npt.NDArray[Any]
Way = Callable[[Image], object]


@dataclass(frozen=True)
class Thresholds:
    """Thresholds for detections of Mask R-CNN that become cells."""

    score: Mapping[str, float]
    """Pipeline -> score threshold."""
    overlap: float = OVERLAP_THRESHOLD
    """Share of the smaller mask; the reference implementation uses it as box IoU."""


def through(client: Client, thresholds: Thresholds) -> dict[str, Callable[[Image], Cells]]:
    """Return both pipelines through a client of a server, or of graphs in this process."""

    def segment(name: str) -> Callable[[Image], Cells]:
        return lambda image: client.segment(
            image,
            name,
            score_threshold=thresholds.score[name],
            overlap_threshold=thresholds.overlap,
        )

    return {name: segment(name) for name in NAMES}


def study(maskrcnn: MaskRCNN, sam: Sam, thresholds: Thresholds) -> dict[str, Way]:
    """Return both pipelines as the study ran them: torchvision, then `SamPredictor` box by box.

    They take 8-bit RGB ``[H, W, 3]``, as the study's images were. Of the several masks of a box,
    the one with the best predicted quality is used.
    """
    detector, predictor = TorchvisionMaskRcnn(maskrcnn), SamPredictor(sam)

    def detect(rgb: Image, name: str = "maskrcnn") -> dict[str, torch.Tensor]:
        return detector.predict(rgb, thresholds.score[name], thresholds.overlap)

    def detect_and_prompt(rgb: Image) -> list[npt.NDArray[np.bool_]]:
        boxes = detect(rgb, "maskrcnn_sam")["boxes"].numpy()
        predictor.set_image(rgb)
        kept = []
        for box in boxes:
            masks, qualities, _ = predictor.predict(box=box, multimask_output=True)
            kept.append(masks[int(np.argmax(qualities))])
        return kept

    return {"maskrcnn": detect, "maskrcnn_sam": detect_and_prompt}
