"""What the published studies measured: printed beside our figures, never computed with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ApproachFigures:
    """One row of study S1's table."""

    name: str
    iou: float
    accuracy: float
    seconds: float
    """Per prediction, on the study's machine."""


S1 = {
    "yolo": ApproachFigures("fine-tuning", 0.70, 0.56, 0.2),
    "yolo_resnet": ApproachFigures("segmentation + classification", 0.71, 0.75, 0.65),
}
"""YOLO11n-seg with and without a ResNet50 classifier, from 16 annotated images; by pipeline."""
