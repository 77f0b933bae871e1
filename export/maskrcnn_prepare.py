"""From a camera frame to what Mask R-CNN sees: the step `maskrcnn_prepare`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.normalise import PercentileLevels, as_rgb, to_8_bit


class PrepareRgb(nn.Module):
    """Normalise one camera frame to 8-bit RGB; its size stays, the network resizes it itself."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = PercentileLevels()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Prepare ``image`` ``[H, W, C]``, C = 1 or 3, integer camera values.

        Returns ``normalised_rgb`` uint8 ``[1, 3, H, W]`` and ``frame_size`` int32 ``[2]`` (H, W).
        """
        values = to_8_bit(image.float(), self.levels(image)).permute(2, 0, 1)  # C, H, W
        frame_size = torch._shape_as_tensor(image)[:2].to(torch.int32)
        return as_rgb(values, channel_dim=0).unsqueeze(0), frame_size
