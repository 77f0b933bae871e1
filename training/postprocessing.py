"""Merging of the cells of all tiles of a frame by their masks, exportable as a graph.

Each cell must get one outline. Boxes do not show whether two outlines are the same cell: a piece of
a spread cell has a different box, and two crossing cells have the same box. So masks are compared,
but only for pairs whose boxes overlap. Memory and time are O(N * neighbours), never O(N^2 * M^2) or
O(N * H * W).
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torchvision
from torch import Tensor


class NonMaximumSuppression(torch.autograd.Function):
    """Greedy NMS whose IoU threshold is a tensor; torchvision exports only a constant one.

    ``apply(boxes, scores, threshold)`` takes float32 ``[N, 4]`` (x0, y0, x1, y1), ``[N]`` and
    ``[1]``, and returns the indices of the kept boxes, int64, best score first.
    """

    @staticmethod
    def forward(ctx: Any, boxes: Tensor, scores: Tensor, threshold: Tensor) -> Tensor:
        """Return the indices of the kept boxes."""
        kept: Tensor = torchvision.ops.nms(boxes, scores, float(threshold))
        return kept

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores: Any, threshold: Any) -> Any:
        """Express the operation as ONNX nodes."""
        axes = g.op("Constant", value_t=torch.tensor([0]))
        boxes = g.op("Unsqueeze", boxes, axes)
        scores = g.op("Unsqueeze", g.op("Unsqueeze", scores, axes), axes)
        everything = g.op("Constant", value_t=torch.tensor([2**31 - 1]))
        selected = g.op("NonMaxSuppression", boxes, scores, everything, threshold)
        column = g.op("Constant", value_t=torch.tensor(2))
        return g.op("Gather", selected, column, axis_i=1)


GRID = 24
"""Points per side at which two masks are compared, spread over the box of the first of them."""

ROWS_AT_ONCE = 256
"""Cells compared at once with those kept so far: 1 MB per 1,000 of the latter."""

PAIRS_AT_ONCE = 1024
"""Number of pairs whose masks are compared at once: about 15 MB."""

EDGE_TOLERANCE = 2.0
"""Distance to an inner edge of its tile, in network pixels, within which a mask counts as cut."""

INSIDE = 128
"""Least patch value inside the cell (probability 0.5)."""


def _overlapping(boxes: Tensor, earlier: Tensor, later: Tensor) -> Tensor:
    """Find index pairs (i, j) in ``earlier`` and ``later`` of cells whose boxes overlap.

    The result is int64 ``[Q, 2]``; the cells are int64 ``[K]`` and ``[B]``. Only pairs in which the
    first cell comes before the second are returned.
    """
    own, others = boxes.index_select(0, earlier), boxes.index_select(0, later)
    low = torch.maximum(own[:, None, :2], others[None, :, :2])
    high = torch.minimum(own[:, None, 2:], others[None, :, 2:])
    shared = (high > low).all(dim=2) & (earlier[:, None] < later[None, :])
    return torch.nonzero(shared)


def _shares(
    boxes: Tensor, masks: Tensor, areas: Tensor, pairs: Tensor, grid: int, pairs_at_once: int
) -> Tensor:
    """Compute the intersection over the smaller mask of every pair: float32 ``[Q]``.

    ``masks`` are 0 or 1, uint8 ``[N, M, M]``; ``areas`` float32 ``[N]`` in frame pixels.
    """
    size = masks.shape[1]
    flat = masks.reshape(-1)
    shares = torch.zeros((0,))
    steps = (torch.arange(grid).to(boxes.dtype) + 0.5) / grid
    own = (steps * size).long()
    own_points = (own[:, None] * size + own[None, :]).reshape(-1)
    for start in range(0, pairs.shape[0], pairs_at_once):
        first = pairs[start : start + pairs_at_once, 0]
        second = pairs[start : start + pairs_at_once, 1]
        # The sample points lie on the smaller cell, where they are densest.
        swapped = areas.index_select(0, second) < areas.index_select(0, first)
        small = torch.where(swapped, second, first)
        large = torch.where(swapped, first, second)
        small_boxes = boxes.index_select(0, small)
        large_boxes = boxes.index_select(0, large)
        places = small_boxes[:, :2, None] + steps * (
            small_boxes[:, 2:, None] - small_boxes[:, :2, None]
        )  # q, (x, y), grid
        sides = torch.clamp(large_boxes[:, 2:, None] - large_boxes[:, :2, None], min=1e-6)
        on_large = torch.floor((places - large_boxes[:, :2, None]) / sides * size).long()
        within = (on_large >= 0) & (on_large < size)
        on_large = torch.clamp(on_large, 0, size - 1)
        points = on_large[:, 1, :, None] * size + on_large[:, 0, None, :]
        seen = within[:, 1, :, None] & within[:, 0, None, :]
        offsets = (large * (size * size))[:, None]
        theirs = flat.index_select(0, (points.flatten(1) + offsets).reshape(-1))
        offsets = (small * (size * size))[:, None]
        ours = flat.index_select(0, (own_points[None, :] + offsets).reshape(-1))
        ours = ours.reshape(-1, grid * grid).to(torch.int32)
        both = ours * theirs.reshape(-1, grid * grid).to(torch.int32)
        both = both * seen.flatten(1).to(torch.int32)
        inside = torch.clamp(ours.sum(dim=1).float(), min=1.0)
        shares = torch.cat([shares, both.sum(dim=1).float() / inside])
    return shares


def _survivors(cells: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Mark those of ``cells`` int64 ``[N]`` that no earlier survivor suppresses: float32, 0 or 1.

    ``first`` int64 ``[Q]``, indices into ``cells``, suppress ``second``. Greedy suppression decides
    cell by cell. Here all cells are decided at once, repeatedly until nothing changes. The number
    of rounds is the length of the longest chain of cells that suppress each other.
    """
    nothing = cells.to(torch.float32) * 0.0
    alive = nothing + 1.0
    changed = True
    while changed:
        hits = nothing.scatter_add(0, second, alive.index_select(0, first))
        still = (hits < 0.5).to(torch.float32)
        changed = bool((still != alive).any())
        alive = still
    return alive


def _suppressing(
    boxes: Tensor,
    masks: Tensor,
    areas: Tensor,
    threshold: Tensor,
    earlier: Tensor,
    later: Tensor,
    grid: int,
    pairs_at_once: int,
) -> Tensor:
    """Like :func:`_overlapping`, but only for cells whose masks share more than ``threshold``."""
    places = _overlapping(boxes, earlier, later)
    cells = torch.stack(
        [earlier.index_select(0, places[:, 0]), later.index_select(0, places[:, 1])], dim=1
    )
    shares = _shares(boxes, masks, areas, cells, grid, pairs_at_once)
    return places.index_select(0, torch.nonzero(shares > threshold)[:, 0])


def _suppress(
    boxes: Tensor,
    masks: Tensor,
    areas: Tensor,
    threshold: Tensor,
    places: Tensor,
    rows_at_once: int,
    pairs_at_once: int,
    grid: int,
) -> Tensor:
    """Implement :func:`suppress_by_masks`; ``places`` is 0..N-1.

    Cells are processed in blocks of ``rows_at_once``. Each block is compared with the cells kept so
    far, and then with itself, so that suppressed cells are compared with few others.
    """
    kept = places[:0]
    # No share is larger than 1, so with such a threshold no cell is compared. An `if` would hide
    # from the exporter how many dims its tensors have.
    end = int((threshold < 1.0).to(torch.int64).sum()) * boxes.shape[0]
    for start in range(0, end, rows_at_once):
        block = places[start : start + rows_at_once]
        pairs = _suppressing(boxes, masks, areas, threshold, kept, block, grid, pairs_at_once)
        gone = pairs[:, 1].reshape(-1)
        hits = (block.to(torch.float32) * 0.0).scatter_add(0, gone, gone.to(torch.float32) * 0 + 1)
        block = block.index_select(0, torch.nonzero(hits < 0.5)[:, 0])
        pairs = _suppressing(boxes, masks, areas, threshold, block, block, grid, pairs_at_once)
        alive = _survivors(block, pairs[:, 0].reshape(-1), pairs[:, 1].reshape(-1))
        kept = torch.cat([kept, block.index_select(0, torch.nonzero(alive > 0.5)[:, 0])])
    return torch.cat([kept, places[end:]])


with warnings.catch_warnings():
    # Scripted, so that loops stay loops in the graph: only the tracing exporter, which knows
    # nothing else, can follow NMS.
    warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", FutureWarning)
    _scripted_suppress = torch.jit.script(_suppress)


def suppress_by_masks(boxes: Tensor, patches: Tensor, threshold: Tensor) -> Tensor:
    """Return the indices of the cells to keep, int64 ``[K]``, ascending.

    Of two cells whose masks share more than ``threshold`` of the smaller mask, the earlier one is
    kept. The intersection over the smaller mask is never less than the intersection over the union,
    so this bounds both.

    Args:
        boxes: float32 ``[N, 4]``, (x0, y0, x1, y1), in order of priority, highest first.
        patches: uint8 ``[N, M, M]``, probability 0..255 inside the box.
        threshold: share of the smaller mask, float32 ``[1]``.
    """
    masks = (patches >= INSIDE).to(torch.uint8)
    # Made here, where it is traced: in a scripted function the exporter would turn it into a
    # constant.
    places = torch.arange(torch._shape_as_tensor(boxes)[0])  # type: ignore[call-overload]
    areas = mask_areas(boxes, masks)
    kept: Tensor = _scripted_suppress(
        boxes, masks, areas, threshold, places, ROWS_AT_ONCE, PAIRS_AT_ONCE, GRID
    )
    return kept


def mask_areas(boxes: Tensor, masks: Tensor) -> Tensor:
    """Areas float32 ``[N]`` of masks uint8 ``[N, M, M]`` of 0 and 1, in pixels of ``boxes``."""
    points = masks.flatten(1).to(torch.int32).sum(dim=1).float()
    sides = boxes[:, 2:] - boxes[:, :2]
    size = torch._shape_as_tensor(masks)[1]
    return points * sides[:, 0] * sides[:, 1] / (size * size).float()


def tile_cuts(
    boxes: Tensor, tiles: Tensor, tile_origins: Tensor, tile_size: Tensor, overlap: Tensor
) -> tuple[Tensor, Tensor]:
    """Find cells that lie whole in their tile, and cut cells that lie whole in no other tile.

    A cell that is cut by an inner edge of its tile, but is no larger than the tiles' overlap, is
    neither: it lies whole in the neighbouring tile.

    Args:
        boxes: float32 ``[N, 4]``, in network pixels of the tile.
        tiles: int64 ``[N]``, index of each cell's tile.
        tile_origins: float32 ``[T, 2]``, (x, y), see `training.preprocessing.cutting.NetworkTiles`.
        tile_size: float32 ``[2]``, width and height of a tile in network pixels.
        overlap: float32 ``[]``, least overlap of neighbouring tiles in network pixels.

    Returns:
        whole and large_cut: bool ``[N]`` each.
    """
    origins = tile_origins.index_select(0, tiles)
    first, last = tile_origins.amin(dim=0), tile_origins.amax(dim=0)
    low = (origins > first) & (boxes[:, :2] <= EDGE_TOLERANCE)
    high = (origins < last) & (boxes[:, 2:] >= tile_size - EDGE_TOLERANCE)
    cut = low | high
    elsewhere = cut & (boxes[:, 2:] - boxes[:, :2] <= overlap - 2 * EDGE_TOLERANCE)
    whole = ~cut.any(dim=1)
    return whole, ~whole & ~elsewhere.any(dim=1)


def merge_cells(
    boxes: Tensor,
    masks: Tensor,
    scores: Tensor,
    whole: Tensor,
    large_cut: Tensor,
    overlap_threshold: Tensor,
    max_cells: Tensor,
) -> tuple[Tensor, Tensor]:
    """Choose the cells of a frame from those found in all its tiles.

    If both a whole cell and a piece of it were found, the whole cell is kept, even if the piece has
    the higher score. So cells that no tile cuts rank before those that a tile cuts. Within both
    groups, a mask with a straight edge along a side of its box is likely to be a piece and loses up
    to half of its score. Detections without area, or with almost no mask, are dropped.

    Args:
        boxes: float32 ``[P, 4]`` in frame pixels.
        masks: uint8 ``[P, M, M]``, probability 0..255 inside the box.
        scores: float32 ``[P]``.
        whole: bool ``[P]``, see :func:`tile_cuts`.
        large_cut: bool ``[P]``, likewise.
        overlap_threshold: float32 ``[1]``, share of the smaller mask above which one of two cells
            is dropped.
        max_cells: int32 ``[1]``, maximum number of cells.

    Returns:
        Rows of the N cells, int64 ``[N]``, best score first, and the number of cells before the
        cap, int32 ``[1]``.
    """
    has_area = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    # A speck that falls between the points at which masks are compared could not be suppressed.
    points = _own_points(torch._shape_as_tensor(masks)[1])
    seen = masks.index_select(1, points).index_select(2, points)
    has_mask = seen.flatten(1).to(torch.int32).amax(dim=1) >= INSIDE
    usable = torch.nonzero(has_area & has_mask & (whole | large_cut))[:, 0]
    rank = scores * (1 - _cut_share(masks) / 2) + whole.float() * 2
    order = torch.argsort(rank.index_select(0, usable), descending=True)
    usable = usable.index_select(0, order)
    kept = suppress_by_masks(
        boxes.index_select(0, usable), masks.index_select(0, usable), overlap_threshold
    )
    usable = usable.index_select(0, kept)
    best = torch.argsort(scores.index_select(0, usable), descending=True)
    found = torch._shape_as_tensor(best)[0].to(torch.int32).reshape(1)
    return usable.index_select(0, best[: max_cells[0].long()]), found


def _cut_share(masks: Tensor) -> Tensor:
    """Largest share of a side of each box that its mask touches: float32 ``[N]``."""
    sides = torch.stack([masks[:, 0], masks[:, -1], masks[:, :, 0], masks[:, :, -1]], dim=1)
    return (sides >= INSIDE).float().mean(dim=2).amax(dim=1)


def _own_points(size: Tensor) -> Tensor:
    """Rows (or columns) of a patch at which its mask is compared: int64 ``[GRID]``."""
    return ((torch.arange(GRID) + 0.5) / GRID * size).long()
