"""The grid of the nuclei network: cutting a frame into overlapping tiles, and stitching them.

The grid starts ``TILE_MARGIN`` outside the frame, and neighbouring tiles overlap by half: each tile
consists of 2 x 2 blocks of ``TILE_STEP`` pixels. ``ceil(H / TILE_STEP)`` rows and
``ceil(W / TILE_STEP)`` columns of tiles put every pixel at least ``TILE_MARGIN`` inside some tile.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from cytoserve.contract import TILE_MARGIN, TILE_SIZE, TILE_STEP
from training.preprocessing.clean import Clean, reflect_pad
from training.preprocessing.normalise import as_rgb

EDGE = 48
"""Pixels at a tile's edge that count nothing where another tile covers them.

Beyond its edge, a network sees zeros. On stained tissue, the plain U-Net's answer at the edge
differed from its answer with the true surroundings by up to 180/255. It differed by 11/255 (99th
percentile) 32 pixels from the edge, and by 2/255 at 64. Blended over the whole overlap, 95 % of the
pixels stayed within 3/255 when the grid was shifted; with an edge of 32 to 48 pixels left out,
99.97 % did."""

if TILE_SIZE != 2 * TILE_STEP:
    raise ImportError(
        f"tiles of {TILE_SIZE} px must overlap by half, found a step of {TILE_STEP} px"
    )


def blend_weights() -> Tensor:
    """Weight of a tile, float64 ``[TILE_STEP]``, from its ends to its middle."""
    centres = torch.arange(TILE_STEP, dtype=torch.float64) + 0.5
    rise = torch.clamp((centres - EDGE) / (TILE_STEP - 2 * EDGE), 0, 1)
    return torch.sin(rise * (math.pi / 2)) ** 2


def tile_count(length: Tensor) -> Any:
    """Number of tiles along a side of ``length`` >= 1 pixels.

    The number is a tensor, so that a traced graph takes any size; torch's stubs know sizes only as
    numbers.
    """
    return torch.div(length + TILE_STEP - 1, TILE_STEP, rounding_mode="floor")


class CutTiles(nn.Module):
    """Cut a frame into the tiles of its grid, mirrored beyond its ends."""

    def forward(self, frame: Tensor) -> Tensor:
        """Tiles ``[T, C, TILE_SIZE, TILE_SIZE]`` of a frame ``[C, H, W]``, in rows of the grid."""
        shape = torch._shape_as_tensor(frame)
        rows, columns = tile_count(shape[1]), tile_count(shape[2])
        padded = reflect_pad(frame, 1, TILE_MARGIN, self._beyond(rows, shape[1]))
        padded = reflect_pad(padded, 2, TILE_MARGIN, self._beyond(columns, shape[2]))
        blocks = padded.reshape(-1, rows + 1, TILE_STEP, columns + 1, TILE_STEP)
        blocks = blocks.permute(1, 3, 0, 2, 4)  # rows + 1, columns + 1, C, step, step
        pairs = torch.cat([blocks[:, :-1], blocks[:, 1:]], dim=4)  # side by side
        tiles = torch.cat([pairs[:-1], pairs[1:]], dim=3)  # one above the other
        stack: Tensor = tiles.reshape(rows * columns, -1, TILE_SIZE, TILE_SIZE)
        return stack

    def _beyond(self, tiles: Any, length: Tensor) -> Tensor:
        """Pixels from the frame's last one to the end of the last tile."""
        end: Tensor = (tiles + 1) * TILE_STEP - TILE_MARGIN
        return end - length


class StitchTiles(nn.Module):
    """Blend the probabilities of overlapping tiles into one frame: the step `nuclei_stitch`.

    Along both axes, a tile weighs nothing within `EDGE` of its ends, where the network sees least
    around a pixel, and has full weight in its middle; in between, its weight rises as sin^2. As
    sin^2 + cos^2 = 1, the weights of neighbours that overlap by half add up to one. Blending is a
    linear mix of two blocks, once from above and below and once from left and right. A block at an
    end of the grid, which only one tile covers, is taken from that tile.
    """

    weights: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Weights of the tile that begins with a block; the tile that ends with it has the rest.
        self.register_buffer("weights", blend_weights().float(), persistent=False)

    def forward(self, tile_probabilities: Tensor, frame_size: Tensor) -> Tensor:
        """Blend the tiles of one frame.

        Args:
            tile_probabilities: uint8 ``[T, TILE_SIZE, TILE_SIZE]``, row by row of the grid.
            frame_size: int32 ``[2]``, H and W.

        Returns:
            Probability uint8 ``[1, H, W]``, 0..255 for 0..1.
        """
        height, width = frame_size[0].long(), frame_size[1].long()
        rows, columns = tile_count(height), tile_count(width)
        tiles = tile_probabilities.reshape(rows, columns, 2, TILE_STEP, TILE_SIZE)
        # Rows of blocks: rows + 1, columns, step, size.
        strips = self._mix(tiles[:, :, 0], tiles[:, :, 1], self.weights[:, None])
        strips = strips.reshape(rows + 1, columns, TILE_STEP, 2, TILE_STEP).transpose(0, 1)
        # Columns of blocks: columns + 1, rows + 1, step, step.
        blocks = self._mix(strips[:, :, :, 0], strips[:, :, :, 1], self.weights)
        blocks = torch.round(blocks).to(torch.uint8).permute(1, 2, 0, 3)
        frame = blocks.reshape((rows + 1) * TILE_STEP, (columns + 1) * TILE_STEP)
        inside: Tensor = frame[
            TILE_MARGIN : TILE_MARGIN + height, TILE_MARGIN : TILE_MARGIN + width
        ]
        return inside.unsqueeze(0)

    def _mix(self, first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
        """Blend first and second halves of the tiles along the leading dim, float32.

        Block ``j`` is the first half of tile ``j`` and the second half of tile ``j - 1``.
        """
        beginning = torch.cat([first, second[-1:]]).float()
        ending = torch.cat([first[:1], second]).float()
        return ending + (beginning - ending) * weights


class PrepareTiles(nn.Module):
    """Scale the white level to 255, clean the whole frame, then cut it into the grid of tiles.

    The frame is cleaned before it is mirrored, so that no tile has a border of its own.
    """

    def __init__(self) -> None:
        super().__init__()
        self.clean = Clean()
        self.cut = CutTiles()

    def forward(self, image: Tensor, white_level: Tensor) -> tuple[Tensor, Tensor]:
        """Prepare a camera frame.

        Args:
            image: ``[H, W, C]``, C = 1 or 3, integer camera values.
            white_level: float32 ``[1]``, the camera value that becomes 255; brighter ones do too.

        Returns:
            tiles: RGB uint8 ``[T, 3, TILE_SIZE, TILE_SIZE]``, row by row of the grid.
            frame_size: int32 ``[2]``, H and W.
        """
        scale = 255 / torch.clamp(white_level, min=1.0)
        # A grey frame is cleaned three times: the cleaning needs a fixed number of channels, and
        # stained tissue has colours.
        planes = as_rgb(image.permute(2, 0, 1), channel_dim=0).float()[None]  # 1, 3, H, W
        cleaned = self.clean(torch.round(torch.clamp(planes * scale, max=255.0)))
        tiles = self.cut(cleaned[0].to(torch.uint8))
        return tiles, torch._shape_as_tensor(image)[:2].to(torch.int32)
