"""Settings of one training of the cell classifier, and the presets of study S1."""

from __future__ import annotations

from pydantic import Field

from training.run.settings import ParallelSettings


class ResnetSettings(ParallelSettings):
    """Settings of one training run."""

    epochs: int = Field(150, gt=0)
    """Number of epochs; each draws as many crops as there are."""
    batch: int = Field(32, gt=1)
    """Number of crops per step."""
    learning_rate: float = Field(3e-4, gt=0)
    """Learning rate of AdamW at the start; it follows a cosine that ends at zero."""
    weight_decay: float = Field(0.01, ge=0)


PRESETS = {"study": ResnetSettings(), "demo": ResnetSettings(epochs=9)}
