"""The steps `sam_prepare` and `sam_prepare_tiles`: from a camera frame to what SAM sees of it."""

from __future__ import annotations

import torch
from segment_anything.modeling import Sam
from torch import Tensor, nn

from cytoserve.contract import MAX_TILE_OVERLAP
from export.graphs.trace import bilinear_weights
from export.sam.geometry import content_size, sides_left_open
from training.preprocessing.cutting import corners, in_rows, tile_starts
from training.preprocessing.normalise import PercentileLevels, as_rgb, to_8_bit

OPAQUE = 255
"""Opacity of a pixel that shows the frame; all other pixels have 0, transparent."""


class SamPrepare(nn.Module):
    """Prepare one whole camera frame in 8 bits as `SamPredictor.set_image` does.

    The longest side becomes S, whatever the frame's size: a smaller frame is enlarged and a larger
    one is shrunk. This is the step of `sam_prompt`, where a person points at one cell and each tile
    would cost another run of the encoder.

    The resizing is `ResizeLongestSide.apply_image`: Pillow's antialiased bilinear resize, columns
    first, rounded to 8 bits after each of the two axes. `Sam.preprocess` follows in the encoder's
    graph, so that steps pass on 4 bytes per pixel instead of 12. The area to the right and below,
    which `Sam.preprocess` fills with zeros, is transparent here. It is sent nevertheless: Triton's
    response cache compares the bytes of inputs and not their shapes, and would take a black frame
    for its transpose.
    """

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.levels = PercentileLevels()
        self.side = sam.image_encoder.img_size

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Prepare ``image`` ``[H, W, C]``, C = 1 or 3, integer camera values.

        Returns ``sam_image`` uint8 ``[1, 4, S, S]``, red, green, blue and opacity 255 or 0, and
        ``sam_tiles`` int32 ``[1, 4]``: the frame, (0, 0, W, H).
        """
        size = torch._shape_as_tensor(image)[:2]
        frame = to_8_bit(image.float(), self.levels(image)).permute(2, 0, 1)  # C, H, W
        none = torch.zeros_like(size)
        whole = torch.stack([none[1], none[0], size[1], size[0]]).to(torch.int32)
        one = torch.clamp(size[0], max=1)
        tile = sides_left_open(whole.reshape([1, 4]), one, first=0)
        return sides_left_open(sam_images(frame.unsqueeze(0), self.side), one, first=0), tile


class SamPrepareTiles(nn.Module):
    """Cut a camera frame into the tiles in which SAM sees it: the step of `maskrcnn_sam`.

    SAM sees the whole frame, as `SamPrepare` shows it, where that is no smaller than Mask R-CNN
    sees it. This holds for frames up to S / scale pixels, and for all frames with a scale of "fit".
    A larger frame is cut into overlapping tiles of S / scale pixels, so that the longest side of
    each becomes S and SAM sees every cell as large as Mask R-CNN did. Each tile is prepared as
    `SamPredictor.set_image` prepares the tile cut out of the frame.
    """

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.levels = PercentileLevels()
        self.side = sam.image_encoder.img_size

    def forward(self, image: Tensor, scale: Tensor, tile_overlap: Tensor) -> tuple[Tensor, Tensor]:
        """Prepare ``image`` ``[H, W, C]``, C = 1 or 3, integer camera values.

        Args:
            image: the frame.
            scale: Mask R-CNN's scale in network pixels per frame pixel, float32 ``[1]``.
            tile_overlap: minimum overlap of neighbouring tiles in the network's pixels, float32
                ``[1]``; at most half a tile.

        Returns:
            sam_image: images uint8 ``[T, 4, S, S]`` as `SamPrepare` makes them, the tiles row by
                row.
            sam_tiles: tiles int32 ``[T, 4]``, (x0, y0, x1, y1) in frame pixels, all of one size.
        """
        size = torch._shape_as_tensor(image)[:2]
        longest = size.amax()
        factor = scale.double()[0]
        side = torch.minimum(torch.ceil(self.side / factor).long(), longest)
        most = torch.clamp(tile_overlap.double()[0], 0, MAX_TILE_OVERLAP) / factor
        overlap = torch.minimum(most, torch.floor(side / 2).double())
        one = torch.ones(1)
        _, tops = tile_starts(size[0], one, overlap, side)
        _, lefts = tile_starts(size[1], one, overlap, side)
        height, width = torch.minimum(size[0], side), torch.minimum(size[1], side)
        frame = to_8_bit(image.float(), self.levels(image)).permute(2, 0, 1)  # C, H, W
        rows = (tops[:, None] + torch.arange(height)).reshape(-1)  # type: ignore[call-overload]
        columns = (lefts[:, None] + torch.arange(width)).reshape(-1)  # type: ignore[call-overload]
        cut = frame.index_select(1, rows).index_select(2, columns)
        origins = corners(tops, lefts).to(torch.int32)
        tiles = torch.cat([origins, origins + torch.stack([width, height]).to(torch.int32)], dim=1)
        return sam_images(in_rows(cut, tops, lefts, height, width), self.side), tiles


def sam_images(tiles: Tensor, side: int) -> Tensor:
    """Scale tiles uint8 ``[T, C, h, w]`` to a longest side of S and pad them: ``[T, 4, S, S]``."""
    size = torch._shape_as_tensor(tiles)[2:]
    content = content_size(size, side)
    rows = bilinear_weights(size[0], content[0])
    columns = bilinear_weights(size[1], content[1])
    # Halves are rounded up, as in Pillow: at twice the size, every fourth value is a half.
    resized = torch.floor(torch.matmul(tiles.float(), columns.transpose(0, 1)) + 0.5)
    resized = torch.floor(torch.matmul(rows, resized) + 0.5)
    rgb = as_rgb(resized, channel_dim=1).to(torch.uint8)
    pixels = torch.cat([rgb, torch.full_like(rgb[:, :1], OPAQUE)], dim=1)
    below = torch.zeros_like(pixels[:, :, :1]).expand(-1, 4, side, -1)
    padded = torch.cat([pixels, below], dim=2)[:, :, :side]
    beyond = torch.zeros_like(padded[:, :, :, :1]).expand(-1, 4, side, side)
    padded = torch.cat([padded, beyond], dim=3)[:, :, :, :side]
    return sides_left_open(padded, torch.clamp(size[0], max=1), first=2)
