"""Settings of one U-Net training, its presets, and names of networks and resolutions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, field_validator, model_validator

from training.run.settings import ParallelSettings


@dataclass(frozen=True)
class Encoder:
    """An encoder by its name in smp, and the name of its ImageNet weights there."""

    smp_name: str
    imagenet: str = "imagenet"

    @property
    def is_universal(self) -> bool:
        """Whether smp takes the encoder from timm, under timm's names of network and weights."""
        return self.smp_name.startswith("tu-")


ENCODERS = {
    "DenseNet169": Encoder("densenet169"),
    "DPN92": Encoder("dpn92", imagenet="imagenet+5k"),  # no others are published
    "EfficientNet-b5": Encoder("efficientnet-b5"),
    "InceptionV4": Encoder("inceptionv4"),
    "MiT-B3": Encoder("mit_b3"),
    "MobileNetV2": Encoder("mobilenet_v2"),
    "ResNet50": Encoder("resnet50"),
    "ResNeXt50 32x4d": Encoder("resnext50_32x4d"),
    "SE-ResNet50": Encoder("se_resnet50"),
    "SE-ResNeXt50 32x4d": Encoder("se_resnext50_32x4d"),
    "GERNet-L": Encoder("tu-gernet_l"),
    "RegNetX-064": Encoder("tu-regnetx_064"),
    "Res2Net50 26w 4s": Encoder("tu-res2net50_26w_4s"),
    "ResNeSt50d": Encoder("tu-resnest50d"),
    "VGG19": Encoder("vgg19"),
    "Xception": Encoder("xception"),
}
"""The 16 encoders of study S2: the study's names, and the smp encoders that they stand for.

segmentation-models-pytorch (smp) 0.6 no longer includes GERNet, RegNet, Res2Net and ResNeSt itself
(`timm-gernet_l`, `timm-regnetx_064`, `timm-res2net50_26w_4s`, `timm-resnest50d`). They remain
available through its universal encoder, which takes the same networks from timm: the `tu-` names.
"""

PLAIN_UNET = "U-Net"
"""U-Net of Ronneberger et al. 2015, as used in study S3, without an encoder from another task."""

NUCLEI_NETWORKS = {PLAIN_UNET: PLAIN_UNET, "U-Net_ResNet50": "ResNet50"}
"""Networks of study S3 -> their names here."""

NETWORKS = (*ENCODERS, PLAIN_UNET)
"""All networks that `training.unet.network.build_unet` can build."""


RESOLUTIONS = {"704p": (512, 704), "1472p": (1120, 1472), "2592p": (1952, 2592)}
"""Resolutions of study S2: name -> (H, W) in pixels."""

NATIVE = "native"
"""Name of the resolution that leaves an image as it is."""


def parse_resolution(text: str) -> tuple[int, int] | None:
    """Parse ``704p``, ``1472p``, ``2592p`` or ``<width>x<height>`` to (H, W); ``native`` to None.

    Raises:
        ValueError: the text is none of these.
    """
    if text == NATIVE:
        return None
    if text in RESOLUTIONS:
        return RESOLUTIONS[text]
    size = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if size is None:
        raise ValueError(
            f"a resolution is {', '.join(RESOLUTIONS)}, {NATIVE} or <width>x<height> in pixels, "
            f"for example 512x384; got {text!r}."
        )
    return int(size[2]), int(size[1])


def size_text(height: int, width: int) -> str:
    """Format a size as :func:`parse_resolution` reads it: ``<width>x<height>``."""
    return f"{width}x{height}"


WIDTH = 64
"""Number of channels of the plain U-Net's first level, as in Ronneberger et al. 2015."""

BORDER_WEIGHT = 10.0
"""Height w0 of the border term in the U-Net paper."""

BORDER_SIGMA = 5.0
"""Range sigma of the border term in the U-Net paper, in pixels."""


class UnetSettings(ParallelSettings):
    """Settings of one training run."""

    encoder: str = "MiT-B3"
    """Encoder, by its name in the study, see `training.unet.network`."""
    width: int = Field(WIDTH, gt=0)
    """Channels of the first level of the plain U-Net; encoders have their own."""
    class_name: str = Field("glioma", min_length=1)
    """Class name of the foreground."""

    resolution: str = "704p"
    """Resolution that the network sees in training: 704p, 1472p, 2592p, native or
    <width>x<height>."""
    mode: Literal["resize", "crop"] = "resize"
    """Training mode: whole images scaled to the resolution, or random windows of that size at
    native scale."""
    window_scale: float | None = Field(None, gt=0, le=1)
    """Share of the image's sides in a random resized crop: a window of this size is scaled to the
    resolution. The study's 57 % is 1472/2592."""
    window_scale_spread: float = Field(0.05, ge=0, lt=1)
    """Largest deviation of the window's scale from ``window_scale``, drawn uniformly."""
    samples_per_frame: int = Field(1, gt=0)
    """Number of times that every image is seen per epoch, each time with a new crop or
    augmentation."""
    blank_share: float = Field(0.1, ge=0, le=1)
    """Number of empty frames, made from noise, per draw of the images; 0 trains without them.
    Background windows need no setting: they are drawn from images that have background."""
    flip_probability: float = Field(0.0, ge=0, le=1)
    """Probability of a flip, for each axis."""
    rotate_90: bool = False
    """Rotate by multiples of 90 degrees; height and width are exchanged for whole batches."""
    sharpness: float = Field(0.0, ge=0, le=1)
    """Spread of the sharpness factor, drawn from 1 - this to 1 + this; 0 turns it off."""
    contrast: float = Field(0.0, ge=0, le=1)
    """Spread of a further contrast factor, drawn from 1 - this to 1 + this; 0 turns it off."""

    epochs: int = Field(300, gt=0)
    """Number of passes over the training images."""
    batch: int = Field(4, gt=0)
    """Number of images per step; the study uses as many as memory allows."""
    optimizer: Literal["Adam", "SGD"] = "Adam"
    """Optimizer, by its name in torch.optim."""
    learning_rate: float = Field(1e-4, gt=0)
    """Learning rate; it is fixed unless `plateau_patience` is given."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of SGD."""
    plateau_patience: int | None = Field(None, ge=0)
    """Epochs without a lower validation loss before the learning rate falls; with None it never
    falls."""
    plateau_factor: float = Field(0.1, gt=0, lt=1)
    """Factor by which the learning rate is multiplied on a plateau."""
    weight_averaging: float | None = Field(None, gt=0, lt=1)
    """Decay of a moving average of the weights, which is validated and saved: 0.99 averages about
    100 steps. It steadies training at a large learning rate. None uses the weights themselves."""
    early_stopping: int | None = Field(None, gt=0)
    """Epochs without a lower validation loss before the run ends; None trains all epochs."""
    loss: Literal["dice", "cross-entropy", "dice+cross-entropy"] = "dice+cross-entropy"
    """Training loss, see `training.unet.trainer`."""
    border_map: bool = False
    """Weigh the cross-entropy by the border weight map of the U-Net paper."""
    border_weight: float = Field(BORDER_WEIGHT, ge=0)
    """Height w0 of the border weight map."""
    border_sigma: float = Field(BORDER_SIGMA, gt=0)
    """Range sigma of the border weight map, in pixels."""
    class_balance: float = Field(1.0, ge=0, le=1)
    """Balance of w_c in the border weight map: 1 weighs both classes equally, 0 all pixels."""
    validation_share: float = Field(0.2, gt=0, lt=1)
    """Share of the frames held out for validation, if no validation frames are given."""

    @field_validator("encoder")
    @classmethod
    def _know_encoder(cls, name: str) -> str:
        if name not in NETWORKS:
            raise ValueError(f"unknown encoder; choose one of: {', '.join(NETWORKS)}")
        return name

    @field_validator("resolution")
    @classmethod
    def _know_resolution(cls, text: str) -> str:
        parse_resolution(text)
        return text

    @model_validator(mode="after")
    def _agree(self) -> UnetSettings:
        if self.resolution == NATIVE and (self.mode == "crop" or self.window_scale is not None):
            raise ValueError(
                f"windows need a size: give a resolution other than {NATIVE}, or mode resize "
                "without window_scale"
            )
        if self.window_scale is not None and self.mode == "crop":
            raise ValueError("window_scale resizes its windows: it goes with mode resize, not crop")
        if self.border_map and self.loss == "dice":
            raise ValueError("border_map weighs the cross-entropy; loss dice has none")
        return self

    @property
    def size(self) -> tuple[int, int] | None:
        """Size (H, W) that the network sees in training; None leaves images at their size."""
        return parse_resolution(self.resolution)

    @property
    def whole_image_resolution(self) -> str:
        """Resolution of whole images at which cells have the same size as in training.

        Windows cut at native scale show cells at their own size. Resized windows show them as in a
        whole image that is resized by the same factor.
        """
        if self.mode == "crop":
            return NATIVE
        if self.window_scale is None or self.size is None:
            return self.resolution
        return size_text(*(round(side / self.window_scale) for side in self.size))


_PRE_TRAIN = UnetSettings(epochs=60, early_stopping=10)


def _scale_matched(spread: float) -> UnetSettings:
    windows = {"resolution": "1472p", "window_scale": 0.57, "window_scale_spread": spread}
    return _PRE_TRAIN.model_copy(update=windows)


GLIOMA_PRESETS = {
    "study": UnetSettings(early_stopping=50),
    "pre-train": _PRE_TRAIN,
    "pre-train-57-5": _scale_matched(0.05),
    "pre-train-57-30": _scale_matched(0.30),
    # Takes minutes on two CPU cores for a dozen fields of 1024x1022.
    "demo": UnetSettings(
        encoder=PLAIN_UNET,
        width=16,
        epochs=50,
        resolution="512x512",
        batch=2,
        learning_rate=1e-3,
        flip_probability=0.5,
        rotate_90=True,
    ),
}
"""Presets of study S2: Adam at a fixed learning rate of 1e-4, 300 epochs, 60 on LIVECell.

Training on LIVECell uses 704p, or windows of 57 % +- 5 or 30 % of its images, resized to 1472p, so
that its cells are as large as those of Glioma C6. Flips, sharpness and contrast are further
settings.
"""

_NUCLEI = UnetSettings(
    encoder=PLAIN_UNET,
    class_name="nucleus",
    resolution=NATIVE,
    flip_probability=0.5,
    rotate_90=True,
    epochs=100,
    batch=8,
    optimizer="SGD",
    learning_rate=0.1,
    plateau_patience=5,
    loss="cross-entropy",
    border_map=True,
)

NUCLEI_PRESETS = {
    "study": _NUCLEI,
    "demo": _NUCLEI.model_copy(update={"width": 16, "epochs": 12, "plateau_patience": 2}),
}
"""Presets of study S3: a learning rate of 0.1 reduced on plateaus, flips and 90 degree rotations
only."""
