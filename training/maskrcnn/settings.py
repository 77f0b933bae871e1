"""Settings of one Mask R-CNN and of its training, and the presets of study S4."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from training.run.settings import ParallelSettings

WIDTH = 64
"""Number of channels of the first level of torchvision's network."""

CHANNELS_PER_GROUP = 8
"""Channels per group in group normalisation: 32 groups per 256 channels, as in Wu and He 2018."""

ANCHOR_SIZES = (32.0, 64.0, 128.0, 256.0, 512.0)

Normalisation = Literal["batch", "group"]


class NetworkSettings(BaseModel):
    """Settings that a Mask R-CNN is built from, apart from its classes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_size: int = Field(800, ge=64)
    """Short side of the median training frame after scaling, in pixels. All frames are scaled by
    the same factor."""
    max_size: int = Field(1333, ge=64)
    """Upper limit of the long side of the median training frame, in pixels. It takes precedence
    over min_size."""
    proposals: int = Field(1000, gt=0)
    """Number of boxes that the region proposal network passes on per frame, and per pyramid level
    before they are filtered. It is also the maximum number of cells found. torchvision's own values
    are 1000 boxes and 100 cells. A dense field needs several boxes for every cell in it."""
    anchor_sizes: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        ANCHOR_SIZES, min_length=5, max_length=5
    )
    """Sides of the anchors of the five pyramid levels, in network pixels."""
    normalisation: Normalisation = "batch"
    """Normalisation of the layers. `batch` is used by torchvision and the COCO weights. `group`
    does not depend on the batch: use it to train from random weights on two images at a time (He et
    al. 2019, "Rethinking ImageNet Pre-training")."""
    width: int = Field(WIDTH, gt=0, multiple_of=CHANNELS_PER_GROUP)
    """Channels of the first level; all others are multiples of it. torchvision uses 64."""

    @model_validator(mode="after")
    def _agree(self) -> NetworkSettings:
        if self.max_size < self.min_size:
            raise ValueError(
                f"max_size bounds the long side, so it is no less than min_size; got "
                f"{self.max_size} and {self.min_size}"
            )
        return self


class MaskrcnnSettings(NetworkSettings, ParallelSettings):
    """Settings of one training run, including those of the network."""

    network_scale: float | None = Field(None, gt=0)
    """Network pixels per frame pixel, the same for all frames. None chooses it by the median frame,
    see min_size and max_size."""
    window: int | None = Field(None, ge=64)
    """Side of the square windows for training and validation, in network pixels. None uses whole
    frames, of at most max_size. Memory grows with the frame's area times its number of cells."""
    samples_per_frame: int = Field(1, gt=0)
    """Number of times that every frame is seen per epoch, each time with a new crop or
    augmentation."""
    min_visible: float = Field(0.25, gt=0, le=1)
    """Minimum visible share of a cell cut by a window's edge for it to be trained on."""
    background_share: float = Field(0.1, ge=0, le=1)
    """Number of background windows, without any cell, per window of the frames."""
    blank_share: float = Field(0.1, ge=0, le=1)
    """Number of empty frames, made from noise, per window of the frames."""
    horizontal_flip_probability: float = Field(0.5, ge=0, le=1)
    """Probability of exchanging left and right."""
    vertical_flip_probability: float = Field(0.3, ge=0, le=1)
    """Probability of exchanging top and bottom."""
    rotate_90_probability: float = Field(0.3, ge=0, le=1)
    """Probability of a rotation by 90, 180 or 270 degrees, which are equally likely."""

    epochs: int = Field(50, gt=0)
    """Number of passes over the training frames."""
    batch: int = Field(2, gt=0)
    """Number of frames, or windows, per step."""
    learning_rate: float = Field(0.003, gt=0)
    """Learning rate of AdamW, until it is reduced on a plateau."""
    weight_decay: float = Field(0.0005, ge=0)
    warmup_steps: int = Field(0, ge=0)
    """Number of warm-up steps over which the learning rate rises to its value."""
    gradient_clip: float | None = Field(None, gt=0)
    """Maximum norm of all gradients together; None does not clip them."""
    plateau_patience: int = Field(10, ge=0)
    """Epochs without a lower validation loss before the learning rate falls. The study only names
    the schedule; this value and the next are the defaults of torch's ReduceLROnPlateau."""
    plateau_factor: float = Field(0.1, gt=0, lt=1)
    """Factor by which the learning rate is multiplied on a plateau."""
    trainable_levels: int = Field(3, ge=0, le=5)
    """Number of backbone levels that are trained, counted from the deepest, if training starts from
    given weights. From random weights all levels are trained. 3 of 5 is torchvision's choice."""
    regions_per_frame: int = Field(512, gt=0)
    """Number of boxes per frame that the heads are trained on in one step, a quarter of them
    cells."""
    validation_share: float = Field(0.2, gt=0, lt=1)
    """Share of the frames held out for validation, if no validation frames are given."""


PRESETS = {
    "study": MaskrcnnSettings(),
    # For training from random weights on two CPU cores, for a dozen fields of 1024x1022 with cells
    # of 90 pixels.
    "demo": MaskrcnnSettings(
        min_size=512,
        max_size=1024,
        anchor_sizes=(16, 32, 64, 128, 256),
        normalisation="group",
        width=32,
        window=256,
        samples_per_frame=2,
        learning_rate=5e-4,
        warmup_steps=50,
        gradient_clip=5.0,
        regions_per_frame=128,
    ),
}
"""Presets by name. `study` is that of study S4: AdamW at 0.003, weight decay 0.0005, batches of 2,
50 epochs, ReduceLROnPlateau on the validation loss, flips and 90 degree rotations."""
