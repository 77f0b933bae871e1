"""From a camera frame to what SAM sees: the step `sam_prepare`."""

from __future__ import annotations

import torch
from segment_anything.modeling import Sam
from torch import Tensor, nn

from export.resize import bilinear_weights
from export.sam_geometry import content_size, sides_left_open
from training.normalise import PercentileLevels, as_rgb, to_8_bit

OPAQUE = 255
"""Of a pixel that shows the frame; the others are 0, transparent."""


class SamPrepare(nn.Module):
    """Normalise one camera frame to 8 bits and make of it what `SamPredictor.set_image` makes.

    SAM sees the whole frame, whatever its size, and no tiles of it: its longest side becomes S, so
    a smaller frame is enlarged and a larger one is shrunk. Mask R-CNN, whose boxes prompt SAM in
    `maskrcnn_sam`, sees large frames in tiles at its own scale. So in a frame of several thousand
    pixels SAM outlines every cell that is found, but from fewer pixels than Mask R-CNN had.

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
        ``frame_size`` int32 ``[2]`` (H, W).
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
        opaque = torch.full_like(rgb[:1], OPAQUE)
        pixels = torch.cat([rgb, opaque])
        below = torch.zeros_like(pixels[:, :1]).expand(4, self.side, -1)
        padded = torch.cat([pixels, below], dim=1)[:, : self.side]
        beyond = torch.zeros_like(padded[:, :, :1]).expand(4, self.side, self.side)
        padded = torch.cat([padded, beyond], dim=2)[:, :, : self.side]
        one = torch.clamp(frame_size[0], max=1)
        return sides_left_open(padded.unsqueeze(0), one, first=2), frame_size.to(torch.int32)
