"""Settings of one training of a YOLO, and the presets of study S1."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from cytoserve.contract import NETWORK_SIZE
from training.checkpoint import RANDOM
from training.run.settings import RunSettings

ARCHITECTURE = "yolo11n-seg"

GENERAL = "general"
"""Value of ``init`` for the network of cells and nuclei that the project ships."""
SHIPPED = Path(__file__).parents[1] / "general" / "yolo"
"""Checkpoint folder of that network; `benchmarks.general` makes it."""

COCO = "coco"
"""Value of ``init`` for ultralytics' published weights."""


def init_folder(init: str) -> Path | None:
    """Return the checkpoint folder that ``init`` names; None for random and published weights."""
    if init in (RANDOM, COCO):
        return None
    return SHIPPED if init == GENERAL else Path(init)


STATE_NAME = "state.safetensors"
"""State of an interrupted run, below ``resume/``."""


class YoloSettings(RunSettings):
    """Settings of one training run."""

    epochs: int = Field(gt=0)
    """Number of passes over the training windows."""
    network_scale: float | None = Field(None, gt=0)
    """Network pixels per frame pixel. None chooses it by the size of the cells, usually 1, see
    `training.datasets.scale`."""
    own_pixels: bool = False
    """Leave joined data sets at their own scales, so that the network learns cells of all their
    sizes, instead of bringing them to one cell size."""
    window: int = Field(NETWORK_SIZE, ge=64, le=NETWORK_SIZE, multiple_of=32)
    """Side of a training window in network pixels. 640 is the side of a served tile."""
    samples_per_frame: int | None = Field(None, gt=0)
    """Number of windows drawn per frame; None uses all windows that cover it."""
    windows_around_cells: int = Field(0, ge=0)
    """Number of additional windows per frame, each around a random cell."""
    min_visible: float = Field(0.25, gt=0, le=1)
    """Minimum visible share of a cell cut by a window's edge for it to be labelled."""
    background_share: float = Field(0.15, ge=0, le=1)
    """Number of background windows, without an annotated cell, per window drawn as above."""
    blank_share: float = Field(0.15, ge=0, le=1)
    """Number of windows of empty frames, made from noise, per window of the frames."""
    batch: int = Field(16, gt=0)
    """Number of windows per pass through the network."""
    samples_per_step: int = Field(64, gt=0)
    """Number of windows over which gradients are accumulated per optimizer step, after warm-up."""
    learning_rate: float = Field(0.01, gt=0, le=1)
    """Learning rate at the start; it falls linearly to a hundredth."""
    optimizer: Literal["SGD", "AdamW"] = "SGD"
    """Optimizer, by its name in torch.optim."""
    validation_share: float = Field(0.1, gt=0, lt=1)
    """Share of the frames held out for validation."""
    mosaic: float = Field(1.0, ge=0, le=1)
    """Probability that a sample combines four windows; off in the last tenth of the epochs."""
    scale: float = Field(0.5, ge=0, lt=1)
    """Spread of the random zoom, from 1 - scale to 1 + scale."""
    flip_probability: float = Field(0.5, ge=0, le=1)
    """Probability of a flip, for each axis."""


# A short run has no time for mosaics or for accumulating gradients: without them, fewer epochs give
# the same result.
_SHORT = YoloSettings(
    epochs=20,
    window=320,
    optimizer="AdamW",
    batch=8,
    samples_per_step=8,
    mosaic=0.0,
    scale=0.3,
)

# A few frames have few windows, but blank frames are of many kinds: so fine-tuning sees more of
# them.
PRESETS = {
    "general": YoloSettings(epochs=200),
    "fine-tune": YoloSettings(epochs=20, blank_share=0.4),
    "general-demo": _SHORT.model_copy(update={"learning_rate": 0.002}),
    "fine-tune-demo": _SHORT.model_copy(
        update={"epochs": 10, "learning_rate": 0.001, "blank_share": 0.4}
    ),
}
