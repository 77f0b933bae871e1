"""Settings of a rendered frame, its specimen and microscope; frozen and validated."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

CLASS_NAMES = ("spread", "round")
SPREAD, ROUND = range(len(CLASS_NAMES))

CELL_DIAMETER_UM = 24.0
"""Mean cell diameter in micrometres (of the disc of its area), as of an adherent glioma cell."""


class RenderSettings(BaseModel):
    """Settings of a phase-contrast frame. ``mean_diameter`` sets the scale, see ``pixel_um``."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    height: int = Field(512, ge=1, le=16384, description="frame height in pixels")
    width: int = Field(512, ge=1, le=16384, description="frame width in pixels")
    cells: int = Field(15, ge=0, description="cells in the frame, whole or cut by its border")
    mean_diameter: float = Field(
        36.0, ge=6, le=512, description="mean cell diameter in pixels (of the disc of its area)"
    )
    shrink_to_fit: bool = Field(
        False, description="render smaller cells where the frame is too small for so many"
    )
    round_fraction: float = Field(0.35, ge=0, le=1, description="chance of a cell to be round")
    max_overlap: float = Field(
        0.15, ge=0, le=0.5, description="largest part of any cell's pixels shared with others"
    )
    debris: float = Field(
        4.0, ge=0, le=100, description="specks of debris on 100 x 100 micrometres; not annotated"
    )
    defocus_um: float = Field(
        1.5, ge=0, le=20, description="standard deviation of a frame's defocus in micrometres"
    )
    unevenness: float = Field(
        0.2, ge=0, le=0.8, description="relative drop from the brightest to the darkest background"
    )
    exposure: float = Field(
        0.35, gt=0, le=1, description="mean background in parts of the full well"
    )
    full_well: float = Field(
        30000.0, ge=100, le=1e6, description="electrons of a pixel at the highest count"
    )
    read_noise: float = Field(2.0, ge=0, le=100, description="read noise in electrons, RMS")
    offset: int = Field(100, ge=0, le=1000, description="counts of a pixel without light")
    bits: Literal[12, 16] = Field(16, description="bits of the camera; the frame is uint16")

    @property
    def pixel_um(self) -> float:
        """Side of a pixel in micrometres."""
        return CELL_DIAMETER_UM / self.mean_diameter
