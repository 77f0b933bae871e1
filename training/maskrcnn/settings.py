"""Settings of one Mask R-CNN training, and the presets of study S4."""

from __future__ import annotations

from pydantic import Field

from training.maskrcnn.network import NetworkSettings


class MaskrcnnSettings(NetworkSettings):
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
    bf16: bool = False
    """Mixed precision in bfloat16: faster on CPUs with AVX512-BF16 or AMX, and on GPUs."""


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
