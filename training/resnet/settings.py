"""Settings of one training of the cell classifier, and the presets of study S1."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ResnetSettings(BaseModel):
    """Settings of one training run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(150, gt=0)
    """Number of epochs; each draws as many crops as there are."""
    minutes: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Minutes to train for, however many epochs that is; None trains the epochs."""
    batch: int = Field(32, gt=1)
    """Number of crops per step."""
    learning_rate: float = Field(3e-4, gt=0)
    """Learning rate of AdamW at the start; it follows a cosine that ends at zero."""
    weight_decay: float = Field(0.01, ge=0)
    bf16: bool = False
    """Mixed precision in bfloat16: faster on CPUs with AVX512-BF16 or AMX, and on GPUs."""


PRESETS = {"study": ResnetSettings(), "demo": ResnetSettings(epochs=9)}
