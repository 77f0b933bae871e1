"""The numbers in a request: the caller's settings, completed from the model card."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cytoserve import contract
from cytoserve.codec.cards import LearnedScale, ModelCard, diameter_factor
from cytoserve.errors import FrameTooLarge, InvalidSetting
from cytoserve.settings import Settings

UNKNOWN = LearnedScale(network_scale=1.0, cell_diameter_px=32.0, largest_cell_px=128.0)
"""Scale for a model whose card has none: one network pixel per frame pixel."""

MAX_NETWORK_SIDE = 32_768
"""Longest side of a scaled frame, in network pixels."""

_MARGIN = 8
"""Frame pixels by which parts of a frame overlap beyond their largest cells."""


@dataclass(frozen=True)
class OperatingPoint:
    """The numbers of one request to an instance pipeline.

    Attributes:
        network_scale: network pixels per frame pixel.
        tile_overlap: minimum overlap of neighbouring tiles, in network pixels.
        score_threshold: detections with a lower score are dropped.
        overlap_threshold: see :class:`cytoserve.settings.Settings`.
        max_cells: see :class:`cytoserve.settings.Settings`.
        frame_scale: factor that scales the frame to match the training frames.
    """

    network_scale: float
    tile_overlap: float
    score_threshold: float
    overlap_threshold: float
    max_cells: int
    frame_scale: float

    @property
    def halo(self) -> int:
        """Frame pixels by which parts of a frame overlap, so that one part holds a whole cell."""
        return math.ceil(self.tile_overlap / self.network_scale) + _MARGIN

    def tiles(self, frame_shape: tuple[int, ...], pipeline: contract.Pipeline) -> int:
        """Return the number of tiles into which the server cuts a frame ``(H, W, ...)``."""
        field = pipeline.field
        overlap = min(self.tile_overlap, field // 2, contract.MAX_TILE_OVERLAP)
        count = 1
        for side in frame_shape[:2]:
            content = round(side * self.network_scale)
            if content > field:
                count *= math.ceil((content - overlap) / (field - overlap))
        return count

    def check_size(self, frame_shape: tuple[int, ...]) -> None:
        """Check that a frame ``(H, W, ...)`` is not scaled beyond what can be segmented.

        Raises:
            FrameTooLarge: a side would be longer than ``MAX_NETWORK_SIDE`` network pixels.
        """
        longest = max(frame_shape[:2])
        if longest * self.network_scale > MAX_NETWORK_SIDE:
            raise FrameTooLarge(
                f"A side of the scaled frame is at most {MAX_NETWORK_SIDE:,} px; given: "
                f"{longest:,} px at {self.network_scale:.4g} network pixels per frame pixel, "
                f"{longest * self.network_scale:,.0f} px. Give a smaller scale (--scale), or "
                'scale="fit" (--scale fit), or cut the frame into fields.'
            )


def operating_point(
    settings: Settings, card: ModelCard, frame_shape: tuple[int, ...], pipeline: contract.Pipeline
) -> OperatingPoint:
    """Return the numbers that a request carries.

    Args:
        settings: the caller's settings.
        card: the model card of the pipeline.
        frame_shape: ``(H, W, ...)`` of the frame in pixels.
        pipeline: an instance pipeline.

    Raises:
        InvalidSetting: see :func:`scale_factor`.
        FrameTooLarge: a side would be longer than ``MAX_NETWORK_SIDE`` network pixels.
    """
    learned = UNKNOWN if card.scale is None else card.scale
    factor = scale_factor(settings, card)
    if factor is None:
        factor = min(pipeline.field / side for side in frame_shape[:2]) / learned.network_scale
    threshold = contract.SCORE_THRESHOLD if card.threshold is None else card.threshold
    # In network pixels, cells have their typical size at any scale of the frame.
    overlap = min(learned.largest_cell_px * learned.network_scale, contract.MAX_TILE_OVERLAP)
    point = OperatingPoint(
        network_scale=_on_the_wire(factor * learned.network_scale),
        tile_overlap=_on_the_wire(overlap),
        score_threshold=(
            threshold if settings.score_threshold is None else settings.score_threshold
        ),
        overlap_threshold=settings.overlap_threshold,
        max_cells=settings.max_cells,
        frame_scale=factor,
    )
    point.check_size(frame_shape)
    return point


def scale_factor(settings: Settings, card: ModelCard) -> float | None:
    """Return the factor that scales a frame to match the training frames.

    Args:
        settings: the caller's settings.
        card: the model card of an instance pipeline.

    Returns:
        The factor, or None if the frame's size decides: ``scale="fit"``.

    Raises:
        InvalidSetting: a pixel size or a cell diameter was given, but the model does not know its
            own.
    """
    learned = card.scale
    if settings.pixel_size_um is not None:
        if learned is None or learned.pixel_size_um is None:
            raise InvalidSetting(
                "pixel_size_um (--pixel-size) is compared with that of the training frames; "
                f"given: {settings.pixel_size_um!r} for {card.pipeline}, whose training was told "
                "none. Give the diameter of the cells in pixels instead (cell_diameter_px, "
                "--cell-diameter), or train again with --pixel-size."
            )
        return settings.pixel_size_um / learned.pixel_size_um
    if settings.cell_diameter_px is not None:
        if learned is None:
            raise InvalidSetting(
                "cell_diameter_px (--cell-diameter) is compared with that of the training's cells; "
                f"given: {settings.cell_diameter_px!r} for {card.pipeline}, whose card tells none. "
                "Give a factor instead (scale, --scale), or export the pipeline again."
            )
        return diameter_factor(
            settings.cell_diameter_px, learned.cell_diameter_px, learned.cell_diameters_px
        )
    if isinstance(settings.scale, str):  # "fit": the settings are checked
        return None
    return 1.0 if settings.scale is None else float(settings.scale)


def _on_the_wire(value: float) -> float:
    """Return the nearest float32, as the server receives it, so that both count the same tiles."""
    return float(np.float32(value))
