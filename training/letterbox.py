"""Letterbox: a frame of any size, scaled and padded into the square that YOLO networks see."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cytoserve.contract import NETWORK_SIZE
from training.normalise import PercentileLevels, as_rgb, to_8_bit

PADDING_VALUE = 114
"""Grey of the padding, as in ultralytics' LetterBox."""


class PrepareFrame(nn.Module):
    """Normalise and letterbox one camera frame; exported as the step `yolo_prepare`.

    The geometry is that of ultralytics' `LetterBox` (aspect kept, content centred, sides rounded
    to whole pixels) with OpenCV's bilinear interpolation, written as gathers on the raw integers:
    only the pixels that are needed are read and no copy of the whole frame is made.
    """

    def __init__(self, size: int = NETWORK_SIZE) -> None:
        super().__init__()
        self.size = size
        self.levels = PercentileLevels()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Prepare ``image`` ``[H, W, C]``, C = 1 or 3, integer camera values.

        Returns:
            network_image: uint8 ``[1, 3, S, S]``, RGB.
            letterbox: float32 ``[6]``: scale_x, scale_y, pad_x, pad_y, H, W; a frame coordinate
                times scale plus padding is a network coordinate. The scales differ where a side
                was rounded to whole pixels.
            levels: float32 ``[2]``, the camera values that became 0 and 255.
        """
        levels = self.levels(image)
        shape = torch._shape_as_tensor(image)
        height, width = shape[0].double(), shape[1].double()
        scale = torch.minimum(self.size / height, self.size / width)
        rows, row_inside, scale_y, pad_y = self._resample(height, scale)
        columns, column_inside, scale_x, pad_x = self._resample(width, scale)
        # Each side is interpolated along the leading dim, where a gather moves whole rows.
        lower, upper, weight = rows
        # Clipped before they are mixed, as in an image normalised first: a hot pixel must not
        # outshine its neighbours.
        above = torch.clamp(image.index_select(0, lower).float(), levels[0], levels[1])
        below = torch.clamp(image.index_select(0, upper).float(), levels[0], levels[1])
        resized = _mix(above, below, weight).permute(1, 2, 0)  # W, C, S
        lower, upper, weight = columns
        resized = _mix(resized.index_select(0, lower), resized.index_select(0, upper), weight)
        resized = resized.permute(1, 2, 0)  # C, S, S
        content = as_rgb(to_8_bit(resized, levels), channel_dim=0)
        padding = torch.full((), PADDING_VALUE, dtype=torch.uint8)
        network_image = torch.where(row_inside[:, None], content, padding)
        network_image = torch.where(column_inside, network_image, padding)
        letterbox = torch.stack([scale_x, scale_y, pad_x, pad_y, height, width]).float()
        return network_image.unsqueeze(0), letterbox, levels

    def _resample(
        self, length: Tensor, scale: Tensor
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor, Tensor, Tensor]:
        """Source indices and weights of every network row (or column) along one side.

        Returns ``(lower index, upper index, weight of the upper)``, which rows lie inside the
        content, the exact scale of this side, and the padding before the content.
        """
        content = torch.clamp(torch.round(length * scale), min=1.0)
        padding = torch.round((self.size - content) / 2 - 0.1)
        position = torch.arange(self.size, dtype=torch.float64) - padding
        source = (position + 0.5) * (length / content) - 0.5
        source = torch.minimum(torch.clamp(source, min=0.0), length - 1)
        lower = torch.floor(source)
        upper = torch.minimum(lower + 1, length - 1)
        inside = (position >= 0) & (position < content)
        return (
            (lower.long(), upper.long(), (source - lower).float()),
            inside,
            content / length,
            padding,
        )


def _mix(low: Tensor, high: Tensor, weight: Tensor) -> Tensor:
    """Linear interpolation between two arrays, one weight for each index of the leading dim."""
    return low + (high - low) * weight[:, None, None]
