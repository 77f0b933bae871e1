"""Doubts about an answer: signs that the model or its settings do not suit the frame.

They follow from the frame, the answer, the model card and the settings alone, so no request is
sent. An answer without any sign is the ordinary case, and so is an answer without a cell.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from cytoserve.appearance import COLOUR, Appearance
from cytoserve.cells import Cells, Doubt
from cytoserve.codec.cards import LearnedAppearance, LearnedScale, ModelCard
from cytoserve.patches import THRESHOLD

FEWEST = 5
"""Fewest cells whose sizes, masks or scores are judged: a share of fewer says little."""

MOST = 0.5
"""Share of the cells above which their masks or scores are a sign."""

FAR_SMALLER, FAR_LARGER = 0.4, 2.5
"""Median diameter of the cells, divided by the least and by the largest of the training's, beyond
which a frame's scale is far from that of the training frames."""

NEAR_THRESHOLD = 0.05
"""Distance of a score from the threshold within which a cell would almost have been dropped."""

WHOLE_SIDE = 0.9
"""Share of the values along a side of a patch that the mask holds if it runs along that side. A
round mask in a box that fits it holds about a fifth of them."""

FRAME_BORDER_PX = 2.0
"""Distance from the frame's border, in frame pixels, within which a box ends because the frame
does."""

FAR_BACKGROUND = 0.55
"""Distance of a frame's background from those of the training's frames from which it is another
kind of image. Images of one kind differ by 0.25 at most, bright field and fluorescence by 0.8. The
noise of an empty frame has 0.5, and is no other kind."""

CAPPED, COLOURS, BACKGROUND, SCALE, EDGES, NEAR = KINDS = (
    "capped",
    "colours",
    "background",
    "scale",
    "edges",
    "threshold",
)
"""Kinds of doubts, in the order in which an answer carries them."""

_INSIDE = np.uint8(math.ceil(THRESHOLD))  # comparing whole numbers is quicker
_SAMPLED = 4  # every fourth row and column of a patch: a diameter to about 2 %


def find_doubts(cells: Cells, look: Appearance, card: ModelCard) -> tuple[Doubt, ...]:
    """Return every doubt about the cells of a whole frame, at most one of each kind.

    Args:
        cells: the cells that an instance pipeline found, with ``scale`` and ``score_threshold``.
        look: what the frame looks like.
        card: the model card. What it does not tell, scale or appearance, is not judged.
    """
    doubts = [_capped(cells)]
    if card.appearance is not None:
        doubts += [_other_kind(look, card.appearance), _other_background(look, card.appearance)]
    if len(cells) >= FEWEST:
        doubts += [_far_scale(cells, card.scale), _cut_masks(cells), _low_scores(cells)]
    return tuple(doubt for doubt in doubts if doubt is not None)


def _capped(cells: Cells) -> Doubt | None:
    if not cells.capped:
        return None
    return Doubt(
        CAPPED,
        f"{cells.found:,} cells found, the best {len(cells):,} kept.",
        "Raise max_cells to get them all, or score_threshold if many of them are no cells.",
        "Raise --max-cells to get them all, or --score-threshold if many of them are no cells.",
    )


def _other_kind(look: Appearance, learned: LearnedAppearance) -> Doubt | None:
    if look.kind in learned.kinds:
        return None
    given, known = ("in colour", "grey") if look.kind == COLOUR else ("grey", "in colour")
    remedy = "Look at the cells; if they are wrong, train on such {}, or take a model that was."
    return Doubt(
        COLOURS,
        f"The frame is {given}, those of the training are {known}.",
        remedy.format("frames"),
        remedy.format("images"),
    )


def _other_background(look: Appearance, learned: LearnedAppearance) -> Doubt | None:
    least, most = learned.background
    if look.background is None or (
        least - FAR_BACKGROUND <= look.background <= most + FAR_BACKGROUND
    ):
        return None
    side = "brighter" if look.background > most else "darker"
    remedy = (
        "Invert the {0} (its range's end minus its values) if the model is to see them as it "
        "learned them, or train on such {0}."
    )
    return Doubt(
        BACKGROUND,
        f"The background is {side} than that of the training frames: {look.background:.2f} of the "
        f"frame's range, not {least:.2f} to {most:.2f}.",
        remedy.format("frames"),
        remedy.format("images"),
    )


def _far_scale(cells: Cells, learned: LearnedScale | None) -> Doubt | None:
    if learned is None:
        return None
    median = cells.scale * float(np.median(_diameters(cells)))
    least, most = learned.cell_diameters_px or (learned.cell_diameter_px,) * 2
    if FAR_SMALLER * least <= median <= FAR_LARGER * most:
        return None
    sizes = f"{least:.3g}" + (f" to {most:.3g}" if most > least else "")
    return Doubt(
        SCALE,
        f"At the scale used, the {len(cells):,} cells found measure {median:.3g} px (median "
        f"diameter), those of the training {sizes} px.",
        "Give the diameter of the frame's cells in its pixels (cell_diameter_px); if that is right "
        "already, train on such frames.",
        "Give the diameter of the images' cells in their pixels (--cell-diameter); if that is "
        "right already, train on such images.",
    )


def _cut_masks(cells: Cells) -> Doubt | None:
    number = int(np.count_nonzero(_along_a_side(cells)))
    if number <= MOST * len(cells):
        return None
    return Doubt(
        EDGES,
        f"{number:,} of {len(cells):,} masks run along a whole side of their box, as if cut there.",
        "Draw the cells: they may be parts of larger ones, or none. Give the diameter of the "
        "frame's cells (cell_diameter_px), or train on such frames.",
        "Look at the overlays (--save overlay): the cells may be parts of larger ones, or none. "
        "Give the diameter of the images' cells (--cell-diameter), or train on such images.",
    )


def _low_scores(cells: Cells) -> Doubt | None:
    threshold = cells.score_threshold
    if not threshold:  # unknown, or 0, which drops nothing
        return None
    near = min(NEAR_THRESHOLD, (1 - threshold) / 2)  # of high thresholds, the lower half
    number = int(np.count_nonzero(cells.scores < np.float32(threshold + near)))
    if number <= MOST * len(cells):
        return None
    return Doubt(
        NEAR,
        f"{number:,} of {len(cells):,} cells score less than {near:.2g} above the threshold, "
        f"{threshold:.3g}: it probably drops others that are no different.",
        "Lower score_threshold if cells are missing, raise it if many are no cells.",
        "Lower --score-threshold if cells are missing, raise it if many are no cells.",
    )


def _diameters(cells: Cells) -> NDArray[np.float64]:
    """Return the diameters of the discs with the cells' areas, overlaps included: frame pixels.

    Training measures its cells in the same way.
    """
    held = (cells.patches[:, ::_SAMPLED, ::_SAMPLED] >= _INSIDE).mean(axis=(1, 2))
    areas = held * (cells.boxes[:, 2:] - cells.boxes[:, :2]).prod(axis=1)
    diameters: NDArray[np.float64] = 2 * np.sqrt(areas.clip(min=0) / np.pi)
    return diameters


def _along_a_side(cells: Cells) -> NDArray[np.bool_]:
    """Return which masks run along a whole side of their box that lies inside the frame."""
    patches, boxes, (height, width) = cells.patches, cells.boxes, cells.frame_shape
    sides = np.stack(
        [patches[:, :, 0], patches[:, 0, :], patches[:, :, -1], patches[:, -1, :]], axis=1
    )
    whole = (sides >= _INSIDE).mean(axis=2) >= WHOLE_SIDE
    room = np.concatenate([boxes[:, :2], (width, height) - boxes[:, 2:]], axis=1)
    along: NDArray[np.bool_] = (whole & (room > FRAME_BORDER_PX)).any(axis=1)
    return along
