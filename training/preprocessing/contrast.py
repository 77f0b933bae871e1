"""Preparation of whole frames for the U-Nets of study S2: percentiles, then higher contrast."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.preprocessing.normalise import PercentileLevels, as_rgb, to_8_bit

CONTRAST = 1.5
"""Factor by which differences from the frame's mean grey grow; values are clipped at black and
white. Study S2 raises the contrast in every experiment but states no factor. This one clips few
pixels of a phase-contrast frame, whose halos are far from its mean."""

GREY_WEIGHTS = (0.2989, 0.587, 0.114)
"""Shares of R, G and B in the mean grey, as in torchvision's `rgb_to_grayscale`."""


class PrepareWholeFrame(nn.Module):
    """Converts a camera frame to the 8 bits that a U-Net sees; exported as `glioma_prepare`.

    The rule is torchvision's `adjust_contrast` (a blend of the image with its mean grey), but
    rounded to whole grey levels where torchvision truncates. An empty frame becomes an even middle
    grey with weak noise, see `PercentileLevels`. A frame of a single value becomes 128 everywhere.
    """

    grey_weights: Tensor

    def __init__(self, contrast: float = CONTRAST) -> None:
        super().__init__()
        self.contrast = contrast
        self.levels = PercentileLevels()
        weights = torch.tensor(GREY_WEIGHTS, dtype=torch.float64)
        self.register_buffer("grey_weights", weights, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Convert integers ``[H, W, C]`` (C = 1 or 3, any dtype) to RGB uint8 ``[1, 3, H, W]``."""
        values = to_8_bit(image.float(), self.levels(image)).float()  # H, W, C
        mean = self._mean_grey(values)
        raised = torch.clamp(values * self.contrast + mean * (1 - self.contrast), 0.0, 255.0)
        pixels = torch.round(raised).to(torch.uint8).permute(2, 0, 1)  # C, H, W
        return as_rgb(pixels, channel_dim=0).unsqueeze(0)

    def _mean_grey(self, values: Tensor) -> Tensor:
        """Mean grey of 8-bit ``values`` float32 ``[H, W, C]``.

        The result does not depend on the order of summation: column sums are whole numbers that
        float32 holds exactly.
        """
        shape = torch._shape_as_tensor(values)
        pixels = (shape[0] * shape[1]).double()
        means = values.sum(dim=0).double().sum(dim=0) / pixels  # C
        weights = self.grey_weights / self.grey_weights.sum()
        return (as_rgb(means, channel_dim=0) * weights).sum().float()
