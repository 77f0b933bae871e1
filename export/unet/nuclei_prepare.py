"""The step `nuclei_prepare`: from a camera frame to the tiles that the nuclei network sees."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from export.unet.tiles import CutTiles
from training.preprocessing.clean import Clean
from training.preprocessing.normalise import as_rgb


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
