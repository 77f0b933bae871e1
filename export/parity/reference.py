"""Reference for the chains: what the library that trained a network finds in a frame.

The cells of all tiles of a frame are merged in plain numpy. The rules are those of
`training.postprocessing`; the code is written independently of it, slow and simple. Masks are
compared as an answer holds them, by the points of their patches. Pixel counts would decide pairs on
the verge of the threshold differently, and with them whole chains of cells.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt
import torch

from cytoserve.contract import MASK_SIZE, MAX_TILE_OVERLAP
from training.preprocessing.normalise import PercentileLevels, as_rgb, to_8_bit

POINTS = 24
"""Points per side at which two masks are compared, as in the graph."""

MARGIN = 0.05
"""Margin around the overlap threshold in a comparison with a graph.

A pair of masks whose share is closer than this to the threshold may be decided either way."""

RANK_MARGIN = 0.003
"""Difference of ranks below which either cell may come first, if a margin is given."""

AROUND = 2
"""Number of tile pixels around its box that are stored of a mask."""

EDGE_TOLERANCE = 2.0
"""Distance, in network pixels, from an inner edge of its tile within which a box counts as cut."""


@dataclass(frozen=True)
class ReferenceCells:
    """Cells that a library finds in one frame, sorted by score."""

    boxes: npt.NDArray[np.float32]
    """Boxes ``[N, 4]``, (x0, y0, x1, y1) in frame pixels."""
    scores: npt.NDArray[np.float32]
    """Scores ``[N]``."""
    class_ids: npt.NDArray[np.int64]
    """Class ids ``[N]``."""
    masks: npt.NDArray[np.bool_]
    """Masks ``[N, H, W]``."""
    probabilities: npt.NDArray[np.float32] | None = None
    """Probabilities ``[N, H, W]``, 0..1, that masks are cut from; None if the library has none."""
    doubtful: npt.NDArray[np.bool_] | None = None
    """Flags ``[N]``, whether a cell might be left out, see `merge_tiles`."""


class Detector(Protocol):
    """A trained network, run by the library that trained it."""

    library: str
    """Name of the library."""

    def cells(
        self,
        camera: npt.NDArray[np.generic],
        scale: float,
        tile_overlap: float,
        score_threshold: float,
        overlap_threshold: float,
    ) -> ReferenceCells:
        """Find the cells of a camera frame ``[H, W]`` or ``[H, W, C]``, tile by tile.

        The tiles are merged by `merge_tiles`.

        Args:
            camera: the frame.
            scale: network pixels per frame pixel.
            tile_overlap: minimum overlap of neighbouring tiles in network pixels.
            score_threshold: score that a cell's score must exceed.
            overlap_threshold: share of the smaller mask above which one of two cells is dropped.
        """


def normalised_rgb(image: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """A camera frame ``[H, W]`` or ``[H, W, C]`` as the 8-bit RGB image of the study scripts."""
    camera = torch.from_numpy(np.atleast_3d(image).astype(np.int32))
    values = to_8_bit(camera.float(), PercentileLevels()(camera))
    rgb: npt.NDArray[np.uint8] = as_rgb(values, channel_dim=2).numpy()
    return rgb


@dataclass(frozen=True)
class TileGrid:
    """Layout of the tiles of one frame."""

    origins: Sequence[tuple[float, float]]
    """(x, y) of every tile's corner in pixels of the scaled frame, negative where it is padded."""
    tile_size: tuple[float, float]
    """(width, height) of the tiles in network pixels."""
    scale: tuple[float, float]
    """Network pixels per frame pixel along x and y, after rounding to whole network pixels."""
    frame_size: tuple[int, int]
    """(H, W) of the frame in pixels."""
    overlap: float
    """Minimum overlap of neighbouring tiles in network pixels."""


def tile_starts(content: int, size: int, overlap: float) -> list[int]:
    """Return where tiles of ``size`` pixels begin along a side of ``content`` pixels.

    They are spread evenly and overlap by at least ``overlap`` pixels; a side that fits into one
    tile begins at 0.
    """
    if content <= size:
        return [0]
    count = math.ceil((content - overlap) / (size - overlap))
    return [round(index * (content - size) / (count - 1)) for index in range(count)]


def scaled_sides(frame_size: tuple[int, int], scale: float) -> tuple[int, int]:
    """(height, width) of a frame (H, W) scaled to whole network pixels."""
    height, width = (max(1, round(side * scale)) for side in frame_size)
    return height, width


def scaled_rgb(camera: npt.NDArray[np.generic], scale: float) -> npt.NDArray[np.uint8]:
    """A camera frame ``[H, W, C]`` as RGB ``[h, w, 3]``, normalised, and scaled by OpenCV."""
    frame = torch.from_numpy(camera.astype(np.int32))
    low, high = PercentileLevels()(frame).numpy()
    height, width = scaled_sides((camera.shape[0], camera.shape[1]), scale)
    clipped = np.clip(camera.astype(np.float32), low, high)
    resized = cv2.resize(clipped, (width, height), interpolation=cv2.INTER_LINEAR)
    values = to_8_bit(
        torch.from_numpy(resized.reshape(height, width, -1)), torch.tensor([low, high])
    )
    rgb: npt.NDArray[np.uint8] = as_rgb(values, channel_dim=2).numpy()
    return rgb


def frame_grid(frame_size: tuple[int, int], scale: float, overlap: float, size: int) -> TileGrid:
    """The grid of a frame (H, W) whose tiles are no larger than the frame or ``size``."""
    height, width = scaled_sides(frame_size, scale)
    overlap = min(max(overlap, 0.0), MAX_TILE_OVERLAP, size // 2)
    tops, lefts = (tile_starts(side, size, overlap) for side in (height, width))
    return TileGrid(
        [(float(left), float(top)) for top in tops for left in lefts],
        (min(width, size), min(height, size)),
        (width / frame_size[1], height / frame_size[0]),
        frame_size,
        overlap,
    )


def merge_tiles(
    tiles: Iterable[ReferenceCells | Iterable[ReferenceCells]],
    grid: TileGrid,
    overlap_threshold: float,
    margin: float = 0.0,
) -> ReferenceCells:
    """Merge the cells that were found in all tiles of a frame.

    - A cell that an inner edge of its tile cuts, and that is no larger than the overlap, lies whole
      in another tile; the piece is left out.
    - Of two masks of which one covers more than ``overlap_threshold`` of the smaller one, the
        higher-ranked stays. Cells that no tile cuts rank first, and then the score counts. A mask
        that lies straight along a side of its box loses up to half of its score in this ranking.

    Args:
        tiles: the cells of each tile, with boxes in pixels of the tile and masks ``[n, h, w]`` of
            the tile's size; or iterables of parts of them, which are read one by one to save
            memory.
        grid: layout of the tiles.
        overlap_threshold: share of the smaller mask above which one of two cells is dropped.
        margin: shares that are closer than this to the threshold may be decided either way: masks
            that two libraries interpolate differ by a point here and there, and a chain of such
            decisions changes which cells stay. Above 0, all cells that might stay are returned, and
            marked as doubtful if they might also be dropped. A trained network has few of these.

    Returns:
        All cells in frame pixels, sorted by score. Masks lie on the whole frame; so do the
        probabilities, where every tile has them.
    """
    found, soft = [], True
    for tile, origin in zip(tiles, grid.origins, strict=True):
        for part in [tile] if isinstance(tile, ReferenceCells) else tile:
            found += _candidates(part, origin, grid)
            soft = soft and part.probabilities is not None
    found.sort(key=lambda candidate: -candidate.rank)
    chosen = _chosen(found, overlap_threshold, margin)
    chosen.sort(key=lambda pair: -pair[0].score)
    cells = [candidate for candidate, _ in chosen]
    planes = np.zeros((len(cells), *grid.frame_size), np.float32)
    for cell, plane in zip(cells, planes, strict=True):
        cell.draw(plane, grid)
    return ReferenceCells(
        np.array([cell.frame_box(grid) for cell in cells], np.float32).reshape(-1, 4),
        np.array([cell.score for cell in cells], np.float32),
        np.array([cell.class_id for cell in cells], np.int64),
        planes >= 0.5,
        planes if soft else None,
        np.array([doubtful for _, doubtful in chosen], bool),
    )


def _chosen(
    ranked: Sequence[_Candidate], threshold: float, margin: float
) -> list[tuple[_Candidate, bool]]:
    """The cells that stay, and whether each might as well be dropped."""
    sure: list[_Candidate] = []
    doubtful: list[_Candidate] = []
    for candidate in ranked:
        shares = [_share(candidate, other) for other in sure]
        over = [other for other, share in zip(sure, shares, strict=True) if share > threshold]
        if margin:  # equal ones may take each other's place
            equal = [other for other in over if other.rank - candidate.rank < RANK_MARGIN]
            sure = [other for other in sure if other not in equal]
            doubtful += equal
            shares = [_share(candidate, other) for other in sure]
        if any(share > threshold + margin for share in shares):
            continue
        shares += [_share(candidate, other) for other in doubtful]
        near = any(share > threshold - margin for share in shares)
        (doubtful if near else sure).append(candidate)
    return [(cell, False) for cell in sure] + [(cell, True) for cell in doubtful]


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A cell found in one tile, which lies whole in this tile or whole in none."""

    box: npt.NDArray[np.float32]
    """Box ``[4]`` in pixels of the tile."""
    origin: tuple[float, float]
    score: float
    class_id: int
    whole: bool
    values: npt.NDArray[np.float32]
    """Mask values ``[h, w]``, 0..1, in and around the box."""
    corner: tuple[int, int]
    """Place (x, y) of the first of the values, in pixels of the tile."""

    @property
    def rank(self) -> float:
        """Rank of the cell: the highest comes first."""
        return self.score * (1 - self.cut_share / 2) + 2 * self.whole

    @cached_property
    def place(self) -> tuple[float, float, float, float]:
        """The box in pixels of the scaled frame."""
        (x, y), (x0, y0, x1, y1) = self.origin, self.box.tolist()
        return x0 + x, y0 + y, x1 + x, y1 + y

    @cached_property
    def area(self) -> float:
        """Area of the mask in pixels of the scaled frame, times the number of points of a patch."""
        x0, y0, x1, y1 = self.place
        return np.count_nonzero(self.patch) * (x1 - x0) * (y1 - y0)

    @cached_property
    def cut_share(self) -> float:
        """Largest share of a side of the box that the mask lies on."""
        sides = (self.patch[0], self.patch[-1], self.patch[:, 0], self.patch[:, -1])
        return max(float(side.mean()) for side in sides)

    @cached_property
    def patch(self) -> npt.NDArray[np.bool_]:
        """The mask at the points of a patch that spans the box, ``[M, M]``."""
        steps = (np.arange(MASK_SIZE) + 0.5) / MASK_SIZE
        x, y = (
            self.box[axis]
            + steps * (self.box[axis + 2] - float(self.box[axis]))
            - (self.corner[axis] + 0.5)
            for axis in (0, 1)
        )
        inside: npt.NDArray[np.bool_] = _sampled(self.values, x, y) >= 0.5
        return inside

    def inside(
        self, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.bool_]:
        """Whether points lie on the mask, by the nearest point of its patch.

        The points are the crossings of columns ``x`` and rows ``y``, in pixels of the scaled frame.
        """
        columns, rows = (
            np.floor((places - corner - self.box[axis]) / side * MASK_SIZE).astype(int)
            for axis, places, corner, side in (
                (0, x, self.origin[0], self.box[2] - self.box[0]),
                (1, y, self.origin[1], self.box[3] - self.box[1]),
            )
        )
        last = MASK_SIZE - 1
        within = ((rows >= 0) & (rows <= last))[:, None] & ((columns >= 0) & (columns <= last))
        nearest = self.patch[np.ix_(rows.clip(0, last), columns.clip(0, last))]
        inside: npt.NDArray[np.bool_] = nearest & within
        return inside

    def frame_box(self, grid: TileGrid) -> npt.NDArray[np.float64]:
        """The box in frame pixels, clipped to the frame."""
        placed = (self.box.astype(np.float64) + self.origin * 2) / (grid.scale * 2)
        height, width = grid.frame_size
        return np.clip(placed, 0, (width, height, width, height))

    def draw(self, plane: npt.NDArray[np.float32], grid: TileGrid) -> None:
        """Draw the values on ``plane`` ``[H, W]``, which spans the frame."""
        places = []
        for axis, length in ((0, grid.frame_size[1]), (1, grid.frame_size[0])):
            start = self.origin[axis] + self.corner[axis]
            centres = (np.arange(length) + 0.5) * grid.scale[axis] - start
            frame = np.flatnonzero((centres >= 0) & (centres < self.values.shape[1 - axis]))
            places.append((frame, centres[frame] - 0.5))
        (columns, x), (rows, y) = places
        if len(columns) and len(rows):
            plane[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = _sampled(
                self.values, x, y
            )


def _candidates(
    cells: ReferenceCells, origin: tuple[float, float], grid: TileGrid
) -> list[_Candidate]:
    first, last = np.min(grid.origins, axis=0), np.max(grid.origins, axis=0)
    found = []
    values = cells.masks if cells.probabilities is None else cells.probabilities
    for box, score, class_id, mask, soft in zip(
        cells.boxes, cells.scores, cells.class_ids, cells.masks, values, strict=True
    ):
        if box[2] <= box[0] or box[3] <= box[1] or not mask.any():
            continue
        cut, elsewhere = False, False
        for axis in (0, 1):
            low = origin[axis] > first[axis] and box[axis] <= EDGE_TOLERANCE
            high = origin[axis] < last[axis] and (
                box[axis + 2] >= grid.tile_size[axis] - EDGE_TOLERANCE
            )
            if low or high:
                cut = True
                length = box[axis + 2] - box[axis]
                elsewhere = elsewhere or length <= grid.overlap - 2 * EDGE_TOLERANCE
        if not elsewhere:
            around, corner = _around(soft, box)
            found.append(
                _Candidate(box, origin, float(score), int(class_id), not cut, around, corner)
            )
    return found


def _around(
    values: npt.NDArray[Any], box: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float32], tuple[int, int]]:
    """A copy of the part of ``values`` that holds a box, and its corner (x, y)."""
    x0, y0 = (max(0, math.floor(low) - AROUND) for low in box[:2])
    x1, y1 = (math.ceil(high) + AROUND for high in box[2:])
    return values[y0:y1, x0:x1].astype(np.float32), (x0, y0)


def _sampled(
    values: npt.NDArray[np.float32], x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    """``values`` ``[h, w]`` at columns ``x`` and rows ``y``, bilinear, edges repeated."""
    columns, rows = (each.astype(np.float32) for each in np.meshgrid(x, y))
    sampled = cv2.remap(values, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return sampled.astype(np.float32, copy=False)


def _share(one: _Candidate, other: _Candidate) -> float:
    """Intersection over the smaller of two masks, at points spread over the smaller one's box."""
    # Plain numbers are faster, and nearly all pairs end here.
    (left, top, right, bottom), (x0, y0, x1, y1) = one.place, other.place
    if left >= x1 or x0 >= right or top >= y1 or y0 >= bottom:
        return 0.0
    small, large = (one, other) if one.area <= other.area else (other, one)
    steps = (np.arange(POINTS) + 0.5) / POINTS
    x0, y0, x1, y1 = small.place
    x, y = x0 + steps * (x1 - x0), y0 + steps * (y1 - y0)
    inside = small.inside(x, y)
    return np.count_nonzero(inside & large.inside(x, y)) / max(1, np.count_nonzero(inside))
