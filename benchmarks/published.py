"""Figures of the published studies, which tables print beside ours but never mix with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class ApproachFigures:
    """One row of study S1's table."""

    name: str
    iou: float
    accuracy: float
    seconds: float
    """Seconds per prediction on the study's machine."""


S1 = {
    "yolo": ApproachFigures("fine-tuning", 0.70, 0.56, 0.2),
    "yolo_resnet": ApproachFigures("segmentation + classification", 0.71, 0.75, 0.65),
}
"""Pipeline -> YOLO11n-seg with or without a ResNet50 classifier, from 16 annotated images."""

TestSizes = tuple[str, str]
"""(R1, R2) of DS^C: predicted at R1, compared with the truth at R2."""


@dataclass(frozen=True)
class GliomaModel:
    """A U-Net of study S2 and its training: one row of the study's tables."""

    encoder: str
    """The study's name of the encoder."""
    init: str
    """Initial weights: ``random``, ``imagenet`` (encoder only), or a pre-training's name (all)."""
    mode: Literal["resize", "crop"]
    resolution: str
    """Resolution of the training on Glioma C6: ``704p``, ``1472p`` or ``2592p``."""
    augmentation: tuple[str, ...] = ()
    """Augmentations in the training on Glioma C6."""

    @property
    def network(self) -> str:
        """Name of the whole model; the plain U-Net has no separate encoder."""
        return self.encoder if self.encoder == "U-Net" else f"U-Net-{self.encoder}"

    @property
    def training(self) -> str:
        """Training on Glioma C6 in words."""
        return " + ".join([f"{self.mode} {self.resolution}", *self.augmentation])

    def __str__(self) -> str:
        return f"{self.network}, {self.init}, {self.training}"


@dataclass(frozen=True)
class GliomaTable:
    """One of study S2's tables: DiceScore^AV of models by test sizes."""

    title: str
    tests: tuple[TestSizes, ...]
    figures: Mapping[GliomaModel, tuple[str, ...]] = field(hash=False)
    """Model -> the study's figure for every test, as printed."""


MIT_B3, VGG19 = "MiT-B3", "VGG19"

LIVECELL = "livecell"
"""Name of the pre-training on LIVECell at 704p."""

LIVECELL_57_30 = "livecell-57-30"
"""Name of the pre-training on LIVECell with random resized crop to 1472p, scale 57 % +- 30 %."""


def _resized(encoder: str, init: str, resolution: str) -> GliomaModel:
    return GliomaModel(encoder, init, "resize", resolution)


def _cropped(encoder: str, init: str, *augmentation: str) -> GliomaModel:
    return GliomaModel(encoder, init, "crop", "1472p", augmentation)


S2_TABLES = {
    1: GliomaTable(
        "Table 1: initialisation, at 704p",
        (("704p", "704p"),),
        {
            _resized(MIT_B3, "random", "704p"): ("0.868",),
            _resized(MIT_B3, "imagenet", "704p"): ("0.930",),
            _resized(MIT_B3, LIVECELL, "704p"): ("0.940",),
            _resized(VGG19, "random", "704p"): ("0.913",),
            _resized(VGG19, "imagenet", "704p"): ("0.932",),
            _resized(VGG19, LIVECELL, "704p"): ("0.940",),
        },
    ),
    2: GliomaTable(
        "Table 2: trained at 704p, tested at 2592p",
        (("704p", "2592p"), ("2592p", "2592p")),
        {
            _resized(MIT_B3, "imagenet", "704p"): ("0.876", "0.696"),
            _resized(VGG19, "imagenet", "704p"): ("0.878", "0.742"),
            _resized(MIT_B3, LIVECELL, "704p"): ("0.886", "0.817"),
            _resized(VGG19, LIVECELL, "704p"): ("0.887", "0.632"),
        },
    ),
    3: GliomaTable(
        "Table 3: trained at higher resolutions",
        # "own" is the resolution that the model was trained at; crops have that of the frames.
        (("own", "2592p"),),
        {
            _resized(VGG19, "imagenet", "1472p"): ("0.904",),
            _cropped(VGG19, "imagenet"): ("0.903",),
            _resized(VGG19, "imagenet", "2592p"): ("0.907",),
            _resized(VGG19, LIVECELL, "1472p"): ("0.901",),
            _resized(VGG19, LIVECELL, "2592p"): ("0.903",),
            _resized(MIT_B3, "imagenet", "1472p"): ("0.905",),
            _cropped(MIT_B3, "imagenet"): ("0.903-0.905",),
            _resized(MIT_B3, LIVECELL, "1472p"): ("0.904",),
            _cropped(MIT_B3, LIVECELL): ("0.899",),
        },
    ),
    4: GliomaTable(
        "Table 4: augmentation of the pre-training on LIVECell",
        (("2592p", "2592p"),),
        {
            _cropped(MIT_B3, LIVECELL): ("0.899",),
            _cropped(MIT_B3, "livecell-57-5"): ("0.903",),
            _cropped(MIT_B3, LIVECELL_57_30): ("0.904",),
            _cropped(MIT_B3, f"{LIVECELL_57_30}-flips"): ("0.903",),
            _cropped(MIT_B3, f"{LIVECELL_57_30}-flips-sharpness"): ("0.906",),
            _cropped(MIT_B3, f"{LIVECELL_57_30}-flips-contrast"): ("0.906",),
            _cropped(MIT_B3, f"{LIVECELL_57_30}-flips-sharpness-contrast"): ("0.903",),
        },
    ),
    5: GliomaTable(
        "Table 5: augmentation of the training on Glioma C6",
        (("2592p", "2592p"),),
        {
            _cropped(MIT_B3, LIVECELL_57_30): ("0.904",),
            _cropped(MIT_B3, LIVECELL_57_30, "flips"): ("0.904",),
            _cropped(MIT_B3, LIVECELL_57_30, "flips", "sharpness"): ("0.903",),
            _cropped(MIT_B3, LIVECELL_57_30, "flips", "contrast"): ("0.902",),
        },
    ),
}
"""Number of the study's table -> DiceScore^AV over K = 10 splits 15/5/10 of 30 images.

The rows of table 2 are hard to read in the source. Tables 4 and 5 repeat figures of table 3's crops
at 1472p, so their models are listed as such.
"""

S3_NETWORKS = ("U-Net", "U-Net_ResNet50")
"""The columns of `S3`."""

S3_ENDINGS: Mapping[str, str] = dict(zip(S3_NETWORKS, ("", "-resnet50"), strict=True))
"""Network -> ending of the names of its settings, checkpoint, repository and result."""

S3 = {
    "original": ((0.384, 0.255), (0.439, 0.377)),
    "1/4": ((0.431, 0.377), (0.256, 0.147)),
    "1/4 zero": ((0.401, 0.364), (0.354, 0.272)),
    "512/256": ((0.313, 0.223), (0.636, 0.466)),
    "512/256 zero": ((0.304, 0.179), (0.322, 0.278)),
    "256/128": ((0.727, 0.566), (0.742, 0.593)),
    "256/128 zero": ((0.742, 0.592), (0.746, 0.597)),
    "128/64": ((0.662, 0.501), (0.676, 0.515)),
    "128/64 zero": ((0.708, 0.555), (0.691, 0.533)),
}
"""Set of tiles -> (Dice, IoU) of both networks in the test; split 80/20 of 162 images."""


@dataclass(frozen=True)
class InstanceFigures:
    """Figures of study S4 on one of its data sets, by pipeline for both networks."""

    annotated: float
    """Mean annotated cells per image."""
    found: float
    """Mean cells per image that Mask R-CNN found, and SAM with it."""
    confidence: Mapping[str, float] = field(hash=False)
    mean_average_precision: Mapping[str, float] = field(hash=False)


S4 = {
    "rat MSC": InstanceFigures(
        8.4,
        10.0,
        confidence={"maskrcnn": 0.938, "maskrcnn_sam": 0.927},
        mean_average_precision={"maskrcnn": 0.640, "maskrcnn_sam": 0.605},
    ),
    "human MSC": InstanceFigures(
        41.85,
        37.17,
        confidence={"maskrcnn": 0.801, "maskrcnn_sam": 0.848},
        mean_average_precision={"maskrcnn": 0.306, "maskrcnn_sam": 0.262},
    ),
}
"""Data set -> Mask R-CNN ResNet-50-FPN v2 and SAM ViT-H on its boxes.

They were trained and tested on 80/20 of 48 and of 207 images.
"""
