"""Settings of one SAM training, its presets, and the sizes of the network."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator
from typing_extensions import Self

from training.run.settings import ParallelSettings

PUBLISHED = ("vit_h", "vit_l", "vit_b")
"""Sizes that segment-anything publishes."""

TINY = "tiny"
"""Size that is small enough to be trained from random weights on a CPU."""

SIZES = (*PUBLISHED, TINY)

MaskLoss = Literal["focal+dice", "surroundings+dice"]
"""Kind of mask loss: SAM's own, or cross-entropy weighted by `training.sam.trainer.surroundings`
for a network that starts from random weights. In a frame with hundreds of cells, all but a few
thousandths of the pixels lie outside the prompted cell. With equal weights the network first learns
to predict nothing."""

BOX_SPREAD = 0.1
"""Standard deviation of a drawn box's edges, in sides of the box (Kirillov et al. 2023, A)."""


class SamSettings(ParallelSettings):
    """Settings of one training run."""

    size: str = "vit_h"
    """Size of the network, one of ``SIZES``."""
    train_encoder: bool = False
    """Train the image encoder too. If frozen, its embeddings are computed once and cached."""
    train_prompt_encoder: bool = False
    """Train the encoder of points, boxes and coarse masks too."""

    epochs: int = Field(30, gt=0)
    """Number of passes over the training frames."""
    dense_epochs: int = Field(0, ge=0)
    """Number of epochs at the start that train only the image encoder, without prompts, see
    `training.sam.trainer.DenseHead`. Meant for an encoder that starts from random weights. A run
    limited by its minutes takes the same share of them."""
    samples_per_frame: int = Field(4, gt=0)
    """Number of times that every frame is seen per epoch, each time with other cells and
    prompts."""
    batch: int = Field(1, gt=0)
    """Number of frames per step."""
    prompts_per_frame: int = Field(32, gt=0)
    """Maximum number of cells drawn from a frame for one step; memory grows with it."""
    flip_probability: float = Field(0.0, ge=0, le=1)
    """Probability of a flip, for each axis."""
    rotate_90: bool = False
    """Rotate by multiples of 90 degrees."""
    views: bool = False
    """Turn by any angle, mirror, zoom, stretch, move and relight, see
    `training.sam.samples`. Replaces flips and quarter turns."""

    box_spread: float = Field(BOX_SPREAD, ge=0, le=0.5)
    """Standard deviation of a drawn box's edges, in sides of the box."""
    points_alone: float = Field(0.0, ge=0, le=1)
    """Probability that a step's cells are prompted by points instead of boxes."""
    points_added: float = Field(0.0, ge=0, le=1)
    """Probability that points are added to a step's boxes."""
    coarse_masks: float = Field(0.0, ge=0, le=1)
    """Probability that coarse masks are added to a step's prompts."""

    loss: MaskLoss = "focal+dice"
    """Loss of the masks, see ``MaskLoss``."""
    learning_rate: float = Field(1e-4, gt=0)
    """Peak learning rate of AdamW. It falls by a cosine to a hundredth at the end."""
    warmup_share: float = Field(0.05, ge=0, lt=1)
    """Share of all steps during which the learning rate rises."""
    weight_decay: float = Field(0.01, ge=0)
    """Weight decay of AdamW."""
    gradient_clip: float = Field(1.0, gt=0)
    """Maximum norm of all gradients together."""
    validation_share: float = Field(0.2, gt=0, lt=1)
    """Share of the frames held out for validation, if no validation frames are given."""
    validation_prompts: int | None = Field(None, gt=0)
    """Maximum number of validation cells per frame, evenly spread over its list; None uses all."""

    @field_validator("size")
    @classmethod
    def _know_size(cls, name: str) -> str:
        if name not in SIZES:
            raise ValueError(f"unknown size of SAM; choose one of: {', '.join(SIZES)}")
        return name

    @model_validator(mode="after")
    def _leave_epochs_for_prompts(self) -> Self:
        if self.dense_epochs and not self.train_encoder:
            raise ValueError(
                "dense_epochs teach the image encoder, which is frozen; set train_encoder, or "
                "leave dense_epochs out"
            )
        if self.dense_epochs >= self.epochs:
            raise ValueError(
                f"of {self.epochs} epochs, {self.dense_epochs} dense_epochs leave none for "
                "prompts; give more epochs"
            )
        return self


PRESETS = {
    # Adapts a published SAM: only its mask decoder is trained.
    "study": SamSettings(points_added=0.1, coarse_masks=0.1),
    # Half an hour on two CPU cores for a dozen fields of 1024x1022.
    "demo": SamSettings(
        size=TINY,
        train_encoder=True,
        train_prompt_encoder=True,
        epochs=40,
        samples_per_frame=4,
        prompts_per_frame=32,
        flip_probability=0.5,
        rotate_90=True,
        points_alone=0.1,
        points_added=0.1,
        coarse_masks=0.15,
        loss="surroundings+dice",
        learning_rate=1e-3,
        weight_decay=0.05,
        validation_prompts=24,
    ),
}
