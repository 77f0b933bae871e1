"""From a camera frame to what SAM sees: the step `sam_prepare`."""

from __future__ import annotations

import torch
from segment_anything.modeling import Sam
from torch import Tensor, nn

from export.resize import bilinear_weights
from export.sam_geometry import content_size
from training.normalise import PercentileLevels, as_rgb, to_8_bit


class SamPrepare(nn.Module):
    """Normalise one camera frame to 8 bits and make of it what `SamPredictor.set_image` makes.

    That is `ResizeLongestSide.apply_image`: Pillow's antialiased bilinear resize of the longest
    side to S, columns first and rounded to 8 bits after either side. `Sam.preprocess` follows in
    the encoder's graph, so that a quarter of its bytes go from step to step, and no padding.
    """

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.levels = PercentileLevels()
        self.side = sam.image_encoder.img_size

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Prepare ``image`` ``[H, W, C]``, C = 1 or 3, integer camera values.

        Returns ``sam_image`` uint8 ``[1, 3, h, w]``, the longest side S, and ``frame_size`` int32
        ``[2]`` (H, W).
        """
        frame_size = torch._shape_as_tensor(image)[:2]
        content = content_size(frame_size, self.side)
        rows = bilinear_weights(frame_size[0], content[0])
        columns = bilinear_weights(frame_size[1], content[1])
        values = to_8_bit(image.float(), self.levels(image)).permute(2, 0, 1).float()  # C, H, W
        # Halves are rounded up, as Pillow does: at twice the size every fourth value is one.
        resized = torch.floor(torch.matmul(values, columns.transpose(0, 1)) + 0.5)
        resized = torch.floor(torch.matmul(rows, resized) + 0.5)
        rgb = as_rgb(resized, channel_dim=0).to(torch.uint8)
        return rgb.unsqueeze(0), frame_size.to(torch.int32)
