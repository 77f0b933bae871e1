"""Decoding of YOLO's raw predictions for a frame's tiles to cells: the step `yolo_decode`."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from cytoserve.contract import MASK_SIZE, MAX_CANDIDATES, NETWORK_SIZE, PROTOTYPES
from training.postprocessing import NonMaximumSuppression, merge_cells, tile_cuts

COEFFICIENTS = PROTOTYPES.dims[0]
PROTOTYPE_STRIDE = 4
"""Network pixels per prototype pixel."""

CHUNK = 64
"""Number of cells whose masks are decoded at once. A cell's prototype-sized mask takes 100 kB, 32
times its patch. In chunks this memory is needed for 64 cells, not for thousands."""

BOX_OVERLAP = 0.7
"""IoU above which the lower-scored of two boxes of one tile is dropped before masks are decoded.
This only saves work: suppression by masks makes the decision."""

WIDE = 44
"""Points per side at which a mask is sampled in its box and in the margins around it."""

MARGIN = 6
"""Number of the ``WIDE`` points that lie beyond each side of the box, to see whether the mask
continues there. This margin is a fifth of the box's side. With a fourth, small cells that touch a
large one were mistaken for its end and lost. With an eighth, more outlines ran along their
boxes."""


def _weights(low: Tensor, high: Tensor, size: int, length: int) -> Tensor:
    """Compute weights of ``length`` prototype pixels in ``size`` points from ``low`` to ``high``.

    The result is float32 ``[N, size, length]``, along one axis. It is cubic convolution (Keys 1981,
    a = -3/4, as in torch and OpenCV), since bilinear interpolation would draw a small cell, a few
    prototype pixels wide, as an octagon.
    """
    places = (torch.arange(size).to(low.dtype) + 0.5) / size
    position = low[:, None] + places * (high - low)[:, None] - 0.5
    position = torch.clamp(position, 0.0, length - 1.0)
    taps = torch.floor(position)[:, :, None] + (torch.arange(4).to(low.dtype) - 1.0)
    far = (position[:, :, None] - taps).abs()
    near = (1.25 * far - 2.25) * far * far + 1.0
    next_to = ((-0.75 * far + 3.75) * far - 6.0) * far + 3.0
    # Pixels beyond the ends are left out; the remaining weights keep their sum.
    within = ((taps >= 0.0) & (taps <= length - 1.0)).to(low.dtype)
    weights = torch.where(far < 1.0, near, next_to) * within
    weights = weights / weights.sum(dim=2, keepdim=True)
    columns = torch.clamp(taps, 0.0, length - 1.0).to(torch.int64)
    return torch.zeros((low.shape[0], size, length)).scatter_add(2, columns, weights)


def _sampled(logits: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Sample ``logits`` float32 ``[N, h, w]`` in their boxes ``[N, 4]``: ``[N, size, size]``."""
    rows = _weights(boxes[:, 1], boxes[:, 3], size, logits.shape[1])
    columns = _weights(boxes[:, 0], boxes[:, 2], size, logits.shape[2])
    return torch.matmul(torch.matmul(rows, logits), columns.transpose(1, 2))


def _run_beyond(inside: Tensor, margin: int) -> Tensor:
    """Measure how far masks extend into the last ``margin`` columns: float32 ``[N]``, in columns.

    The result is -1 if a mask does not even reach the last column before the margin. ``inside`` is
    bool ``[N, size, size]``. A pixel counts if its row is inside from the box's edge up to it, so
    that a neighbouring cell in the margin does not count.
    """
    size = inside.shape[2]
    rows = inside[:, margin : size - margin, size - margin - 1 :]
    gaps = torch.cumsum((~rows).to(torch.float32), dim=2)
    runs = (gaps < 0.5).to(torch.float32).sum(dim=2)
    return runs.amax(dim=1) - 1.0


def _mended(boxes: Tensor, wide: Tensor, content: Tensor, margin: int) -> Tensor:
    """Move the sides of ``boxes`` outwards to just beyond the ends of their masks.

    A mask that does not end within the margin continues into a neighbour that touches it, or is a
    piece of a larger cell: that side stays where the network put it. But a mask that continues up
    to the end of the ``content`` ``[4]``, the part of the tile that shows the frame, is clipped
    there.
    """
    inside = wide > 0.0
    across = inside.transpose(1, 2)
    steps = ((boxes[:, 2:] - boxes[:, :2]) / float(wide.shape[1] - 2 * margin)).repeat(1, 2)
    runs = torch.stack(
        [
            _run_beyond(inside.flip([2]), margin),
            _run_beyond(across.flip([2]), margin),
            _run_beyond(inside, margin),
            _run_beyond(across, margin),
        ],
        dim=1,
    )
    outwards = torch.tensor([-1.0, -1.0, 1.0, 1.0])
    room = (content - boxes) * outwards / torch.clamp(steps, min=1e-6)
    ends = (runs > 0.5) & (runs < float(margin) - 0.5)
    ends = ends | ((runs > -0.5) & (runs + 1.0 >= room))
    return boxes + (runs + 1.0) * ends.to(runs.dtype) * outwards * steps


def _decode_masks(
    coefficients: Tensor,
    prototypes: Tensor,
    tiles: Tensor,
    boxes: Tensor,
    content: Tensor,
    size: int,
    wide: int,
    margin: int,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Implement :func:`decode_masks`; ``boxes`` and ``content`` are in prototype pixels."""
    channels, height, width = prototypes.shape[1], prototypes.shape[2], prototypes.shape[3]
    patches = torch.zeros((0, size, size), dtype=torch.uint8)
    mended = torch.zeros((0, 4))
    order = torch.zeros((0,), dtype=torch.int64)
    for tile in range(prototypes.shape[0]):
        rows = torch.nonzero(tiles == tile)[:, 0]
        flat = prototypes[tile].reshape(channels, height * width)
        for start in range(0, rows.shape[0], chunk):
            own = rows[start : start + chunk]
            logits = torch.matmul(coefficients.index_select(0, own), flat)
            logits = logits.reshape(-1, height, width)
            given = boxes.index_select(0, own)
            beyond = (given[:, 2:] - given[:, :2]) * (float(margin) / float(wide - 2 * margin))
            around = torch.cat([given[:, :2] - beyond, given[:, 2:] + beyond], dim=1)
            better = _mended(given, _sampled(logits, around, wide), content[tile], margin)
            better = torch.maximum(better, content[tile, 0:2].repeat(2))
            better = torch.minimum(better, content[tile, 2:4].repeat(2))
            sampled = _sampled(logits, better, size)
            patch = torch.round(torch.sigmoid(sampled) * 255).to(torch.uint8)
            patches = torch.cat([patches, patch])
            mended = torch.cat([mended, better])
            order = torch.cat([order, own])
    return patches, mended, order


with warnings.catch_warnings():
    # Scripted, so that loops stay loops in the graph; see `training.postprocessing`.
    warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", FutureWarning)
    _scripted_decode_masks = torch.jit.script(_decode_masks)


def decode_masks(
    coefficients: Tensor, prototypes: Tensor, tiles: Tensor, boxes: Tensor, content: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Decode the masks of N cells, and extend their boxes to the ends of the masks.

    Boxes are clipped to the frame before their masks are sampled: clipping a box later would
    squeeze its mask.

    Args:
        coefficients: float32 ``[N, 32]``.
        prototypes: float32 ``[T, 32, S / 4, S / 4]``.
        tiles: int64 ``[N]``, index of each cell's tile.
        boxes: float32 ``[N, 4]``, (x0, y0, x1, y1) in network pixels of the tile.
        content: float32 ``[T, 4]``, likewise, the part of each tile that shows the frame.

    Returns:
        Sorted by tile: mask patches uint8 ``[N, M, M]``, boxes in network pixels of the tile, and
        the input row of each, int64 ``[N]``.
    """
    masks, mended, order = _scripted_decode_masks(
        coefficients,
        prototypes,
        tiles,
        boxes / PROTOTYPE_STRIDE,
        content / PROTOTYPE_STRIDE,
        MASK_SIZE,
        WIDE,
        MARGIN,
        CHUNK,
    )
    return masks, mended * PROTOTYPE_STRIDE, order


def mended_boxes(
    boxes: Tensor, coefficients: Tensor, prototypes: Tensor, content: tuple[int, int, int, int]
) -> Tensor:
    """Extend ``boxes`` float32 ``[N, 4]`` of one tile to the ends of their masks.

    ``content`` is the part of the tile that shows the frame, (x0, y0, x1, y1) in network pixels.
    """
    tiles = torch.zeros(len(boxes), dtype=torch.int64)
    shown = torch.tensor([content], dtype=torch.float32)
    return decode_masks(coefficients, prototypes, tiles, boxes, shown)[1]


class YoloDecode(nn.Module):
    """Applies threshold, class-agnostic NMS per tile, masks, merging of all tiles, and the cap.

    Each cell is returned once, even if it matches several classes or lies in several tiles; see
    `training.postprocessing`.
    """

    def forward(
        self,
        predictions: Tensor,
        prototypes: Tensor,
        tile_origins: Tensor,
        tiling: Tensor,
        score_threshold: Tensor,
        overlap_threshold: Tensor,
        max_cells: Tensor,
    ) -> tuple[Tensor, ...]:
        """Decode the predictions for the T tiles of one frame.

        Args:
            predictions: float32 ``[T, 4 + K + 32, A]``: centre x, y, width, height in network
                pixels of the tile, K class scores, 32 mask coefficients, for A anchors.
            prototypes: float32 ``[T, 32, S / 4, S / 4]``.
            tile_origins: float32 ``[T, 2]``, see `training.preprocessing.cutting.NetworkTiles`.
            tiling: float32 ``[5]``, see `training.preprocessing.cutting.NetworkTiles`.
            score_threshold: float32 ``[1]``; the best class score of a detection must be above it.
            overlap_threshold: float32 ``[1]``, share of the smaller mask above which the
                lower-ranked of two cells is dropped.
            max_cells: int32 ``[1]``, maximum number of cells.

        Returns:
            boxes float32 ``[N, 4]`` (x0, y0, x1, y1) in frame pixels, scores float32 ``[N]``
            (descending),
            detected_ids int32 ``[N]``, detected_probs float32 ``[N, K]``, masks uint8
            ``[N, M, M]``, cells_found int32 ``[1]`` before the cap, then boxes and masks again as
            separate outputs, and frame_size int32 ``[2]`` (H, W).
        """
        tiles, anchors = self._candidates(predictions, score_threshold, overlap_threshold)
        masks, on_tile, order = decode_masks(
            anchors[:, -COEFFICIENTS:],
            prototypes,
            tiles,
            _corners(anchors[:, :4]),
            _content(tile_origins, tiling),
        )
        tiles, anchors = tiles.index_select(0, order), anchors.index_select(0, order)
        boxes = self._on_frame(on_tile, tile_origins.index_select(0, tiles), tiling)
        side = torch.full((2,), float(NETWORK_SIZE))
        whole, large_cut = tile_cuts(on_tile, tiles, tile_origins, side, tiling[4])
        probabilities = anchors[:, 4:-COEFFICIENTS]
        scores = probabilities.amax(dim=1)
        kept, found = merge_cells(
            boxes, masks, scores, whole, large_cut, overlap_threshold, max_cells
        )
        boxes, masks = boxes.index_select(0, kept), masks.index_select(0, kept)
        probabilities = probabilities.index_select(0, kept)
        return (
            boxes,
            probabilities.amax(dim=1),
            probabilities.argmax(dim=1).to(torch.int32),
            probabilities,
            masks,
            found,
            boxes.clone(),
            masks.clone(),
            tiling[2:4].to(torch.int32),
        )

    def _candidates(
        self, predictions: Tensor, score_threshold: Tensor, overlap_threshold: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Select the boxes that NMS keeps in each tile, best score first.

        Returns:
            Tiles int64 ``[P]`` and anchors float32 ``[P, 4 + K + 32]`` of these boxes.
        """
        best = predictions[:, 4:-COEFFICIENTS].amax(dim=1)  # T, A
        above = torch.nonzero(best > score_threshold)
        tiles = above[:, 0]
        values = torch._shape_as_tensor(predictions)[1]
        count = torch._shape_as_tensor(predictions)[2]
        # Only these anchors are gathered, in place: a transposed copy takes 20 MB.
        columns = (tiles * values)[:, None] + torch.arange(values)  # type: ignore[call-overload]
        places = (columns * count + above[:, 1:]).reshape(-1)
        anchors = predictions.reshape(-1).index_select(0, places)
        anchors = anchors.reshape(-1, values)  # type: ignore[call-overload]  # not a number
        scores = anchors[:, 4:-COEFFICIENTS].amax(dim=1)
        # Tiles are moved apart here, so that boxes of two tiles never overlap.
        apart = _corners(anchors[:, :4]) + (tiles.float() * (4 * NETWORK_SIZE))[:, None]
        threshold = torch.clamp(overlap_threshold, min=BOX_OVERLAP)
        kept = NonMaximumSuppression.apply(apart, scores, threshold)[:MAX_CANDIDATES]
        return tiles.index_select(0, kept), anchors.index_select(0, kept)

    def _on_frame(self, boxes: Tensor, origins: Tensor, tiling: Tensor) -> Tensor:
        """Convert ``boxes`` in pixels of tiles at ``origins`` to frame pixels, and clip them."""
        placed = (boxes + origins.repeat(1, 2)) / tiling[0:2].repeat(2)
        return torch.minimum(torch.clamp(placed, min=0.0), tiling[2:4].flip(0).repeat(2))


def _content(tile_origins: Tensor, tiling: Tensor) -> Tensor:
    """Part of each tile that shows the frame: float32 ``[T, 4]`` in network pixels of the tile."""
    frame = tiling[2:4].flip(0) * tiling[0:2]  # width, height in network pixels
    low = torch.clamp(-tile_origins, min=0.0)
    return torch.cat([low, torch.clamp(frame - tile_origins, max=float(NETWORK_SIZE))], dim=1)


def _corners(boxes: Tensor) -> Tensor:
    """Convert centre and size ``[N, 4]`` to (x0, y0, x1, y1)."""
    half = boxes[:, 2:] / 2
    return torch.cat([boxes[:, :2] - half, boxes[:, :2] + half], dim=1)
