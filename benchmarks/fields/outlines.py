"""Errors of found outlines: cut off by boxes, away from the truth, or doubled.

`measure_frame` measures one frame's cells, `outline_figures` summarises all frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import KDTree

from cytoserve import Cells
from cytoserve.patches import Region, regions
from training.datasets.annotated import AnnotatedCell
from training.evaluation import match_cells

NEAR_PX = 0.5
"""Maximum distance in pixels of an outline that runs along an edge of its box or of the frame."""

GRID_PX = 0.25
"""Tolerance in pixels, since outlines lie on a grid of up to half a pixel."""

STRAIGHT_PX = 0.25
"""Maximum deviation of a straight run from its line, in pixels."""

SHORTEST_PX = 3.0
"""Minimum length of a run in pixels; shorter ones are ignored."""

INSIDE_PX = 2.0
"""Depth under a run, in pixels, at which the cell's width is measured."""

SMOOTH_SHARE = 0.75
"""Share of the cell's width `INSIDE_PX` deeper that a smooth end stays below."""

MIN_DIAMETER_PX = 20.0
"""Minimum diameter in pixels of a disc with an annotated cell's area, to measure distances."""

DOUBLED_OVERLAP = 0.7
"""Share of the smaller of two masks above which both are the same cell."""

STEP_PX = 0.5
"""Distance in pixels between the points of an outline whose distances are averaged."""

FINE_STEP_PX = 0.1
"""Distance in pixels between the points of the outline that the distances lead to."""

Outline = npt.NDArray[np.floating[Any]]
"""``[P, 2]``, (x, y) in continuous frame pixels, closed from the last point to the first."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class FrameOutlines:
    """The outlines of one frame's found cells.

    Attributes:
        lengths: float ``[N]``, length of each outline in pixels.
        along_box: float ``[N]``, pixels of it that run along the cell's own box, see `along_box`.
        to_truth: float ``[K]``, per matched cell of `MIN_DIAMETER_PX` or more the mean distance
            in pixels from the points of its outline to the annotated outline.
        from_truth: float ``[K]``, the same from the annotated outline to the cell's.
        doubled: bool ``[N]``, see `doubled_cells`.
    """

    lengths: Floats
    along_box: Floats
    to_truth: Floats
    from_truth: Floats
    doubled: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class OutlineFigures:
    """Figures over the cells of all frames together; NaN if there is nothing to measure."""

    along_box: float
    """Share of the length of all outlines that runs along the cells' own boxes."""
    to_truth_px: float
    """Mean distance in pixels from a matched cell's outline to the annotated one, over cells."""
    from_truth_px: float
    """Mean distance from the annotated outline to the found one: it shows what that leaves out."""
    doubled: float
    """Share of found cells that are one of two for the same cell."""
    cells: int
    """Number of found cells."""
    measured: int
    """Number of matched cells whose distances were measured."""


def measure_frame(found: Cells, annotated: Sequence[AnnotatedCell]) -> FrameOutlines:
    """Measure the outlines of one frame, which may have no found or annotated cell."""
    outlines, shape = found.polygons(), found.frame_shape
    along = [along_box(o, box, shape) for o, box in zip(outlines, found.boxes, strict=True)]
    distances = []
    for match in match_cells(found, annotated).matches:
        truth = annotated[match.annotated_index]
        if np.sqrt(4 * truth.area / np.pi) >= MIN_DIAMETER_PX:
            own, its = outlines[match.found_index], truth.polygon()
            distances.append((mean_distance(own, its, shape), mean_distance(its, own, shape)))
    to_truth, from_truth = np.array(distances, np.float64).reshape(-1, 2).T
    return FrameOutlines(
        lengths=np.array([_lengths(outline).sum() for outline in outlines], np.float64),
        along_box=np.array(along, np.float64),
        to_truth=to_truth,
        from_truth=from_truth,
        doubled=doubled_cells(found),
    )


def outline_figures(frames: Sequence[FrameOutlines]) -> OutlineFigures:
    """Return the figures over the cells of all frames together."""
    length = sum(float(frame.lengths.sum()) for frame in frames)
    along = sum(float(frame.along_box.sum()) for frame in frames)
    cells = sum(len(frame.lengths) for frame in frames)
    twice = sum(int(frame.doubled.sum()) for frame in frames)
    return OutlineFigures(
        along_box=along / length if length else float("nan"),
        to_truth_px=_mean(frame.to_truth for frame in frames),
        from_truth_px=_mean(frame.from_truth for frame in frames),
        doubled=twice / cells if cells else float("nan"),
        cells=cells,
        measured=sum(len(frame.to_truth) for frame in frames),
    )


# -- Along the own box ----------------------------------------------------------------------------


def along_box(
    outline: Outline, box: npt.NDArray[np.floating[Any]], shape: tuple[int, int]
) -> float:
    """Return the length in pixels of the straight runs that an outline makes along its own box.

    A tight box touches every cell, and a smooth end of a cell runs along it briefly. A run counts
    only if it is longer than such an end: longer than an ellipse that fills the box stays in its
    outermost pixel, or nearly as wide as the cell is a little deeper. Sides of the box at the
    frame's border do not count, because there the frame cuts the cell.

    Args:
        outline: outline of one cell.
        box: ``[4]``, (x0, y0, x1, y1) in continuous frame pixels.
        shape: ``(H, W)`` of the frame in pixels.
    """
    total = 0.0
    for axis, size in ((0, shape[1]), (1, shape[0])):
        for edge, inwards in ((box[axis], 1), (box[axis + 2], -1)):
            if NEAR_PX + GRID_PX < edge < size - NEAR_PX - GRID_PX:
                # (along the side, into the cell)
                turned = np.stack([outline[:, 1 - axis], (outline[:, axis] - edge) * inwards], 1)
                smooth = _elliptic_end(box[3 - axis] - box[1 - axis], box[axis + 2] - box[axis])
                total += _straight_runs(turned, smooth)
    return total


def _straight_runs(outline: Floats, smooth: float) -> float:
    """Return the length of the runs along one side of the box that are longer than a smooth end.

    Args:
        outline: ``[P, 2]``, (place along the side, depth from it into the box), in pixels.
        smooth: length in pixels that an ellipse in the box has there.
    """
    depth = outline[:, 1]
    near = np.abs(depth) <= NEAR_PX + GRID_PX
    if not near.any():
        return 0.0
    line = depth[near].min()
    near &= depth <= line + STRAIGHT_PX
    on_line = near & np.roll(near, -1)  # the segment from this point to the next
    lengths, total = _lengths(outline), 0.0
    for run in _cyclic_runs(on_line):
        length = float(lengths[run].sum())
        ends = outline[[*run, (run[-1] + 1) % len(outline)], 0]
        width = _width_at(outline, line + INSIDE_PX, ends.min(), ends.max())
        if length >= SHORTEST_PX and (length > smooth or length >= SMOOTH_SHARE * width):
            total += length
    return total


def _elliptic_end(span: float, depth: float) -> float:
    """Return an ellipse's length in the outermost pixel along its box's ``span``, plus 1 pixel."""
    if depth <= 2:
        return float("inf")
    return float(span * np.sqrt(1 - (1 - 2 / depth) ** 2)) + 1


def _width_at(outline: Floats, depth: float, start: float, stop: float) -> float:
    """Return the cell's width at a depth, if it lies under ``start`` to ``stop``, else infinity."""
    here, there = outline, np.roll(outline, -1, axis=0)
    crosses = (here[:, 1] < depth) != (there[:, 1] < depth)
    here, there = here[crosses], there[crosses]
    part = (depth - here[:, 1]) / (there[:, 1] - here[:, 1])
    places = np.sort(here[:, 0] + part * (there[:, 0] - here[:, 0])).reshape(-1, 2)  # in, out
    under = places[(places[:, 0] < stop) & (places[:, 1] > start)]
    return float(np.ptp(under, axis=1).sum()) if len(under) else float("inf")


def _cyclic_runs(chosen: npt.NDArray[np.bool_]) -> list[list[int]]:
    """Return runs of true values, which may wrap around; none if all values are true."""
    if chosen.all():
        return []
    first = int(np.argmin(chosen))  # a false value, which no run crosses
    runs: list[list[int]] = [[]]
    for index in (np.arange(len(chosen)) + first) % len(chosen):
        if chosen[index]:
            runs[-1].append(int(index))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


# -- Away from the truth --------------------------------------------------------------------------


def mean_distance(outline: Outline, other: Outline, shape: tuple[int, int]) -> float:
    """Return the mean distance in pixels from the points of one outline to another outline.

    Points at the frame's border are left out, since there the frame cuts both outlines. The result
    is NaN if no point remains.

    Args:
        outline: outline with the points, one every `STEP_PX`.
        other: outline that the distances lead to.
        shape: ``(H, W)`` of the frame in pixels.
    """
    points = _dense(outline, STEP_PX)
    border = NEAR_PX + GRID_PX
    inside = (points > border) & (points < np.array(shape[::-1]) - border)
    points = points[inside.all(axis=1)]
    if not len(points) or not len(other):
        return float("nan")
    distances, _ = KDTree(_dense(other, FINE_STEP_PX)).query(points)
    return float(np.mean(distances))


def _dense(outline: Outline, step: float) -> Floats:
    """Return points every ``step`` pixels or less along an outline, ``[Q, 2]``."""
    parts = np.maximum(np.ceil(_lengths(outline) / step), 1).astype(int)
    before = np.repeat(np.cumsum(parts) - parts, parts)
    share = (np.arange(parts.sum()) - before) / np.repeat(parts, parts)
    start = np.repeat(outline, parts, axis=0)
    stop = np.repeat(np.roll(outline, -1, axis=0), parts, axis=0)
    return np.asarray(start + share[:, None] * (stop - start), np.float64)


def _lengths(outline: Outline) -> Floats:
    """Return the length in pixels of the segment from each point to the next, ``[P]``."""
    return np.asarray(np.linalg.norm(np.roll(outline, -1, axis=0) - outline, axis=1), np.float64)


def _mean(values: Iterable[Floats]) -> float:
    """Return the mean of all values that are not NaN."""
    known = np.concatenate([np.empty(0), *values])
    known = known[~np.isnan(known)]
    return float(known.mean()) if len(known) else float("nan")


# -- Doubled --------------------------------------------------------------------------------------


def doubled_cells(found: Cells) -> npt.NDArray[np.bool_]:
    """Find cells that share over `DOUBLED_OVERLAP` of the smaller mask with another: bool ``[N]``.

    The masks are the network's, before the label image separates the cells.
    """
    claims = list(regions(found.boxes, found.patches, found.frame_shape))
    areas = np.array([np.count_nonzero(claim.mask) for claim in claims])
    ends = [(c.columns.start, c.rows.start, c.columns.stop, c.rows.stop) for c in claims]
    x0, y0, x1, y1 = np.array(ends, int).reshape(-1, 4).T
    doubled = np.zeros(len(claims), np.bool_)
    for index, claim in enumerate(claims):
        meet = (x0 < x1[index]) & (x1 > x0[index]) & (y0 < y1[index]) & (y1 > y0[index])
        meet[: index + 1] = False  # each pair once
        for other in np.flatnonzero(meet):
            if _shared(claim, claims[other]) > DOUBLED_OVERLAP * min(areas[index], areas[other]):
                doubled[[index, other]] = True
    return doubled


def _shared(one: Region, other: Region) -> int:
    """Count the pixels that two regions share."""
    masks = []
    for region, beside in ((one, other), (other, one)):
        window = tuple(
            slice(max(own.start, its.start) - own.start, min(own.stop, its.stop) - own.start)
            for own, its in ((region.rows, beside.rows), (region.columns, beside.columns))
        )
        masks.append(region.mask[window])
    return int(np.count_nonzero(masks[0] & masks[1]))
