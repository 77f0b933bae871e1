"""Settings of one Mask R-CNN training, and the presets of study S4."""

from __future__ import annotations

from pydantic import Field

from training.maskrcnn.network import NetworkSettings


class MaskrcnnSettings(NetworkSettings):
    """Settings of one training run; those of the network among them."""

    network_scale: float | None = Field(None, gt=0)
    """Network pixels per frame pixel, of all frames alike; None chooses it by the median frame,
    see min_size and max_size."""
    window: int | None = Field(None, ge=64)
    """Side of the square windows that are trained and validated on, in network pixels; None takes
    whole frames, of max_size at most. Memory grows with the frame's area times its cells."""
    samples_per_frame: int = Field(1, gt=0)
    """Times that every frame is seen in one epoch, each time changed or cut anew."""
    min_visible: float = Field(0.25, gt=0, le=1)
    """A cell cut by a window's edge is trained on if this share of it is inside."""
    background_share: float = Field(0.1, ge=0, le=1)
    """Parts of the background, without any cell, per window of the frames."""
    blank_share: float = Field(0.1, ge=0, le=1)
    """Empty frames, made from noise, per window of the frames."""
    horizontal_flip_probability: float = Field(0.5, ge=0, le=1)
    """Probability that left and right are exchanged."""
    vertical_flip_probability: float = Field(0.3, ge=0, le=1)
    """Probability that up and down are exchanged."""
    rotate_90_probability: float = Field(0.3, ge=0, le=1)
    """Probability of a rotation by 90, 180 or 270 degrees, which are drawn equally often."""

    epochs: int = Field(50, gt=0)
    """Passes over the training frames."""
    batch: int = Field(2, gt=0)
    """Frames, or windows, per step."""
    learning_rate: float = Field(0.003, gt=0)
    """Of AdamW, until it is reduced on a plateau."""
    weight_decay: float = Field(0.0005, ge=0)
    warmup_steps: int = Field(0, ge=0)
    """Steps in which the learning rate rises to its value."""
    gradient_clip: float | None = Field(None, gt=0)
    """Greatest norm of all gradients together; None leaves them."""
    plateau_patience: int = Field(10, ge=0)
    """Epochs without a lower validation loss before the learning rate falls. The study names the
    schedule only; this and the next are those of torch's ReduceLROnPlateau."""
    plateau_factor: float = Field(0.1, gt=0, lt=1)
    """What the learning rate is multiplied by then."""
    trainable_levels: int = Field(3, ge=0, le=5)
    """Levels of the backbone that are trained, from the deepest, where weights to start from are
    given; from random weights all are. 3 of 5 are torchvision's choice."""
    regions_per_frame: int = Field(512, gt=0)
    """Boxes of a frame that the heads are trained on in one step, a quarter of them cells."""
    validation_share: float = Field(0.2, gt=0, lt=1)
    """Share of the frames kept for validation, where no others are given."""
    bf16: bool = False
    """Mixed precision in bfloat16: faster on CPUs with AVX512-BF16 or AMX, and on GPUs."""


PRESETS = {
    "study": MaskrcnnSettings(),
    # From random weights on two CPU cores, for a dozen fields of 1024x1022 with cells of 90 pixels.
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
"""Study S4: AdamW at 0.003, weight decay 0.0005, batches of 2, 50 epochs, ReduceLROnPlateau on the
validation loss, flips and 90 degree rotations."""
