"""From a camera frame to what SAM sees of it: the steps `sam_prepare` and `sam_prepare_tiles`."""

from __future__ import annotations

import torch
from segment_anything.modeling import Sam
from torch import Tensor, nn

from cytoserve.contract import MAX_TILE_OVERLAP
from export.graphs.resize import bilinear_weights
from export.sam.geometry import content_size, sides_left_open
from training.preprocessing.normalise import PercentileLevels, as_rgb, to_8_bit
from training.preprocessing.tiles import corners, in_rows, tile_starts

OPAQUE = 255
"""Of a pixel that shows the frame; the others are 0, transparent."""


class SamPrepare(nn.Module):
    """Make of one whole camera frame what `SamPredictor.set_image` makes of it in 8 bits.

    The longest side becomes S, whatever the frame's size: a smaller frame is enlarged and a larger
    one is shrunk. This is the step of `sam_prompt`, where a person points at one cell and each tile
    would cost another run of the encoder.

    The resizing is `ResizeLongestSide.apply_image`: Pillow's antialiased bilinear resize, columns
    first and rounded to 8 bits after either side. `Sam.preprocess` follows in the encoder's graph,
    so that 4 bytes per pixel go from step to step, and not 12. What it fills with zeros, to the
    right and below, is transparent here. It is sent all the same: Triton's response cache compares
    the bytes of inputs and not their shapes, and would take a black frame for its transpose.
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
    """Make of one camera frame the tiles in which SAM sees it: the step of `maskrcnn_sam`.

    SAM sees the whole frame, as `SamPrepare` shows it, where that is no smaller than Mask R-CNN
    sees it: so frames up to S / scale pixels, and with a scale of "fit" all frames. A larger frame
    is cut into overlapping tiles of S / scale pixels, so that the longest side of each becomes S
    and SAM sees every cell as large as Mask R-CNN did. Each is made into what
    `SamPredictor.set_image` makes of the tile cut out of the frame.
    """

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.levels = PercentileLevels()
        self.side = sam.image_encoder.img_size

    def forward(self, image: Tensor, scale: Tensor, tile_overlap: Tensor) -> tuple[Tensor, Tensor]:
        """Prepare ``image`` ``[H, W, C]``, C = 1 or 3, integer camera values.

        Args:
            image: the frame.
            scale: float32 ``[1]``, of Mask R-CNN: network pixels per frame pixel.
            tile_overlap: float32 ``[1]``, least overlap of neighbouring tiles in the network's
                pixels, at most half a tile.

        Returns:
            sam_image: uint8 ``[T, 4, S, S]``, as `SamPrepare` makes them, the tiles row by row.
            sam_tiles: int32 ``[T, 4]``, (x0, y0, x1, y1) in frame pixels, all of one size.
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
    """Tiles uint8 ``[T, C, h, w]`` with their longest side brought to S: ``[T, 4, S, S]``."""
    size = torch._shape_as_tensor(tiles)[2:]
    content = content_size(size, side)
    rows = bilinear_weights(size[0], content[0])
    columns = bilinear_weights(size[1], content[1])
    # Halves are rounded up, as Pillow does: at twice the size every fourth value is one.
    resized = torch.floor(torch.matmul(tiles.float(), columns.transpose(0, 1)) + 0.5)
    resized = torch.floor(torch.matmul(rows, resized) + 0.5)
    rgb = as_rgb(resized, channel_dim=1).to(torch.uint8)
    pixels = torch.cat([rgb, torch.full_like(rgb[:, :1], OPAQUE)], dim=1)
    below = torch.zeros_like(pixels[:, :, :1]).expand(-1, 4, side, -1)
    padded = torch.cat([pixels, below], dim=2)[:, :, :side]
    beyond = torch.zeros_like(padded[:, :, :, :1]).expand(-1, 4, side, side)
    padded = torch.cat([padded, beyond], dim=3)[:, :, :, :side]
    return sides_left_open(padded, torch.clamp(size[0], max=1), first=2)
