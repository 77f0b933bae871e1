"""Cutting of a camera frame into what networks take: tiles of the frame, and crops of its cells.

A frame of any size is scaled by one factor, network pixels per frame pixel, to the scale that the
network was trained at. If the scaled frame fits into one tile, it is padded as by ultralytics'
LetterBox. A larger one is cut into overlapping tiles, so that every cell up to the size of the
overlap lies whole in some tile. Crops are rectangles cut around cells, on which the classifier is
trained and served.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from cytoserve.contract import CROP_SIZE, MASKRCNN_TILE_SIZE, MAX_TILE_OVERLAP, NETWORK_SIZE
from training.preprocessing.normalise import PercentileLevels, as_rgb, to_8_bit

PADDING_VALUE = 114
"""Grey of the padding, as in ultralytics' LetterBox."""


class NetworkTiles(nn.Module):
    """Normalises, scales and tiles one camera frame; exported as the step `yolo_prepare`.

    Sides are rounded to whole network pixels. The interpolation is OpenCV's bilinear one, written
    as gathers on the raw integers, so that no copy of the whole frame is made in float64.

    Args:
        size: side of a tile in network pixels.
    """

    def __init__(self, size: int = NETWORK_SIZE) -> None:
        super().__init__()
        self.size = size
        self.levels = PercentileLevels()

    def forward(
        self, image: Tensor, scale: Tensor, tile_overlap: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Prepare ``image`` ``[H, W, C]``, C = 1 or 3, integer camera values.

        Args:
            image: the frame.
            scale: float32 ``[1]``, network pixels per frame pixel.
            tile_overlap: float32 ``[1]``, least overlap of neighbouring tiles in network pixels,
                at most half a tile. Tiles start at whole pixels, which may reduce it by one pixel.

        Returns:
            network_image: uint8 ``[T, 3, S, S]``, RGB, the tiles row by row.
            tile_origins: float32 ``[T, 2]``, (x, y) of every tile's corner in pixels of the scaled
                frame; negative where the frame is padded.
            tiling: float32 ``[5]``: scale_x, scale_y, H, W, overlap. The scales are exact: they
                differ if a side was rounded to whole pixels.
            levels: float32 ``[2]``, the camera values that became 0 and 255.
        """
        levels = self.levels(image)
        shape = torch._shape_as_tensor(image)
        overlap = torch.clamp(tile_overlap.double(), 0, min(MAX_TILE_OVERLAP, self.size // 2))[0]
        height, tops = tile_starts(shape[0], scale, overlap, self.size)
        width, lefts = tile_starts(shape[1], scale, overlap, self.size)
        # If the frame is padded, its tile starts before it.
        tops = tops - torch.round(torch.clamp(self.size - height, min=0.0) / 2 - 0.1).long()
        lefts = lefts - torch.round(torch.clamp(self.size - width, min=0.0) / 2 - 0.1).long()
        frame = _scaled(image, height, width, levels).permute(2, 0, 1)  # C, h, w
        tiles = self._cut(self._cut(frame, 1, tops, height), 2, lefts, width)  # C, n * S, m * S
        side = torch.tensor(self.size)
        tiling = torch.stack([width / shape[1], height / shape[0], shape[0], shape[1], overlap])
        return (
            as_rgb(in_rows(tiles, tops, lefts, side, side), channel_dim=1),
            corners(tops, lefts),
            tiling.float(),
            levels,
        )

    def _cut(self, frame: Tensor, dim: int, starts: Tensor, content: Tensor) -> Tensor:
        """Lay the tiles of ``frame`` that start at ``starts`` one after the other along ``dim``."""
        places = (starts[:, None] + torch.arange(self.size)).reshape(-1)
        last = content.long() - 1
        cut = frame.index_select(dim, torch.minimum(torch.clamp(places, min=0), last))
        inside = (places >= 0) & (places <= last)
        inside = inside.reshape([-1 if each == dim else 1 for each in range(3)])
        return torch.where(inside, cut, torch.full((), PADDING_VALUE, dtype=torch.uint8))


class FrameTiles(nn.Module):
    """Normalises, scales and tiles one camera frame without padding: the step `maskrcnn_prepare`.

    A frame that fits into one tile becomes a tile of its own size. All tiles of a larger frame have
    the same size.

    Args:
        size: longest side of a tile in network pixels.
    """

    def __init__(self, size: int = MASKRCNN_TILE_SIZE) -> None:
        super().__init__()
        self.size = size
        self.levels = PercentileLevels()

    def forward(
        self, image: Tensor, scale: Tensor, tile_overlap: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Prepare ``image``; for it and the other arguments see :class:`NetworkTiles`.

        Returns:
            network_tiles: uint8 ``[T, 3, h, w]``, RGB, the tiles row by row; h and w are the
                sides of the scaled frame, or ``size`` if these are larger.
            tile_origins: float32 ``[T, 2]``, (x, y) of every tile's corner in pixels of the scaled
                frame.
            tiling: float32 ``[5]``, see ``NetworkTiles``.
            frame_size: int32 ``[2]``, H and W.
        """
        shape = torch._shape_as_tensor(image)
        overlap = torch.clamp(tile_overlap.double(), 0, min(MAX_TILE_OVERLAP, self.size // 2))[0]
        height, tops = tile_starts(shape[0], scale, overlap, self.size)
        width, lefts = tile_starts(shape[1], scale, overlap, self.size)
        frame = _scaled(image, height, width, self.levels(image)).permute(2, 0, 1)  # C, h, w
        rows = torch.clamp(height, max=float(self.size)).long()
        columns = torch.clamp(width, max=float(self.size)).long()
        places = (tops[:, None] + torch.arange(rows)).reshape(-1)  # type: ignore[call-overload]
        across = (lefts[:, None] + torch.arange(columns)).reshape(-1)  # type: ignore[call-overload]
        tiles = frame.index_select(1, places).index_select(2, across)
        tiling = torch.stack([width / shape[1], height / shape[0], shape[0], shape[1], overlap])
        return (
            as_rgb(in_rows(tiles, tops, lefts, rows, columns), channel_dim=1),
            corners(tops, lefts),
            tiling.float(),
            shape[:2].to(torch.int32),
        )


def tile_starts(
    length: Tensor, scale: Tensor, overlap: Tensor, size: int | Tensor
) -> tuple[Tensor, Tensor]:
    """Compute the length of a side of the scaled frame, and the evenly spaced starts of its tiles.

    Args:
        length: int64 ``[]``, the side in frame pixels.
        scale: float32 ``[1]``, network pixels per frame pixel.
        overlap: float64 ``[]``, least overlap of neighbouring tiles in network pixels.
        size: side of a tile in network pixels, int64 ``[]`` if it is not fixed.

    Returns:
        Length float64 ``[]`` in network pixels, and starts int64 ``[n]``, which are 0 if the side
        fits into one tile.
    """
    content = _scaled_length(length, scale)[0]
    steps = torch.ceil((content - overlap) / (size - overlap))
    count = torch.where(content <= size, torch.ones_like(content), steps)
    places = torch.arange(count.long()).double()  # type: ignore[call-overload]
    return content, torch.round(places * (content - size) / torch.clamp(count - 1, min=1.0)).long()


def _scaled_length(length: Tensor, scale: Tensor) -> Tensor:
    """Convert ``length`` to whole network pixels, 1 or more: float64; ``scale`` is float32."""
    return torch.clamp(torch.round(length.double() * scale.double()), min=1.0)


def in_rows(tiles: Tensor, tops: Tensor, lefts: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """Split ``[C, n * height, m * width]`` into tiles ``[T, C, height, width]``, row by row."""
    rows, columns = torch._shape_as_tensor(tops)[0], torch._shape_as_tensor(lefts)[0]
    apart = tiles.reshape([-1, rows, height, columns, width])  # type: ignore[list-item]
    apart = apart.permute(1, 3, 0, 2, 4)
    stack: Tensor = apart.reshape([rows * columns, -1, height, width])  # type: ignore[list-item]
    return stack


def corners(tops: Tensor, lefts: Tensor) -> Tensor:
    """List the corner (x, y) of every tile, row by row: float32 ``[n * m, 2]``."""
    rows: Any = torch._shape_as_tensor(tops)[0]
    columns: Any = torch._shape_as_tensor(lefts)[0]
    down = tops.reshape(-1, 1).expand(-1, columns).reshape(-1)
    return torch.stack([lefts.repeat(rows), down], dim=1).float()


def scaled_frame(image: Tensor, scale: float) -> tuple[Tensor, tuple[float, float]]:
    """Return the whole scaled frame that tiles are cut from, for training.

    Args:
        image: ``[H, W, C]``, C = 1 or 3, integer camera values.
        scale: network pixels per frame pixel.

    Returns:
        RGB uint8 ``[h, w, 3]``, and the exact scales (x, y) after rounding to whole pixels.
    """
    sides = torch.tensor(image.shape[:2])
    # float32, as in the served graph: otherwise a side may be rounded to a different pixel.
    height, width = _scaled_length(sides, torch.tensor(scale, dtype=torch.float32))
    pixels = as_rgb(_scaled(image, height, width, PercentileLevels()(image)), channel_dim=2)
    return pixels, (float(width / sides[1]), float(height / sides[0]))


def padding_before(content: int, size: int) -> int:
    """Padding before ``content`` pixels centred in ``size``; 0 if ``content`` is larger."""
    return round(max(0, size - content) / 2 - 0.1)


def _scaled(image: Tensor, height: Tensor, width: Tensor, levels: Tensor) -> Tensor:
    """Scale the frame and convert it to 8 bits, uint8 ``[h, w, C]``."""
    shape = torch._shape_as_tensor(image)
    rows, columns = _neighbours(shape[0], height), _neighbours(shape[1], width)
    same = (shape[0] == height) & (shape[1] == width)
    return to_8_bit(_scripted_resampled(image, *rows, *columns, levels, same), levels)


def _resampled(
    image: Tensor,
    row: Tensor,
    next_row: Tensor,
    row_weight: Tensor,
    column: Tensor,
    next_column: Tensor,
    column_weight: Tensor,
    levels: Tensor,
    same: Tensor,
) -> Tensor:
    """Camera values float32 ``[h, w, C]`` of the scaled frame, unchanged if the scale is 1."""
    if bool(same):
        values = image.to(torch.float32)
    else:
        # Values are clipped before interpolation, as in an image normalised first: a hot pixel must
        # not outshine its neighbours. Each axis is interpolated along the leading dim, where a
        # gather moves whole rows.
        low, high = levels[0], levels[1]
        above = torch.clamp(image.index_select(0, row).to(torch.float32), low, high)
        below = torch.clamp(image.index_select(0, next_row).to(torch.float32), low, high)
        mixed = (above + (below - above) * row_weight[:, None, None]).permute(1, 0, 2)
        left, right = mixed.index_select(0, column), mixed.index_select(0, next_column)
        values = (left + (right - left) * column_weight[:, None, None]).permute(1, 0, 2)
    return values


with warnings.catch_warnings():
    # Scripted, so that the branch is kept in the graph: most frames are already at the network's
    # scale and need no interpolation, which takes a tenth of the network's time.
    warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", FutureWarning)
    _scripted_resampled = torch.jit.script(_resampled)


def _neighbours(length: Tensor, content: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Lower and upper source index of every scaled pixel, and the weight of the upper one."""
    position: Any = torch.arange(content.long()).double()  # type: ignore[call-overload]
    source = (position + 0.5) * (length / content) - 0.5
    source = torch.minimum(torch.clamp(source, min=0.0), length - 1)
    lower = torch.floor(source)
    upper = torch.minimum(lower + 1, length - 1)
    return lower.long(), upper.long(), (source - lower).float()


SAMPLES_PER_BIN = 2
"""RoiAlign averages this many samples per side of a crop pixel (He et al. 2017, section 3)."""


class CellCrops(nn.Module):
    """Cut one square crop per box by RoiAlign; exported as the step `cell_crops`.

    A box of any aspect ratio is stretched to the square, as in the study. The crop is normalised
    with the levels of its frame, so a dim cell in a bright field stays dim.
    """

    def forward(self, image: Tensor, levels: Tensor, boxes: Tensor) -> Tensor:
        """Cut crops from ``image`` ``[H, W, C]`` (C = 1 or 3, integer camera values).

        Args:
            image: the frame.
            levels: float32 ``[2]``, see `PercentileLevels`.
            boxes: float32 ``[N, 4]``, (x0, y0, x1, y1) in continuous frame pixels.

        Returns:
            uint8 ``[max(N, 1), 3, S, S]``, RGB. Without any box there is one meaningless crop,
            since a network step with a batch dimension rejects zero rows. The caller removes it.
        """
        count = torch.clamp(torch._shape_as_tensor(boxes)[0], min=1)
        boxes = torch.cat([boxes, boxes.new_zeros((1, 4))])[:count]
        frame = image.float().permute(2, 0, 1).unsqueeze(0)
        rois = torch.cat([torch.zeros_like(boxes[:, :1]), boxes], dim=1)
        crops = roi_align(
            frame, rois, (CROP_SIZE, CROP_SIZE), sampling_ratio=SAMPLES_PER_BIN, aligned=True
        )
        return as_rgb(to_8_bit(crops, levels), channel_dim=1)
