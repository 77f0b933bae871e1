"""The step `foreground`: from a frame's probability to its foreground."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Foreground(nn.Module):
    """The unchanged probability, and the mask of the pixels at or above a threshold.

    A pixel of value ``v`` is foreground where ``v >= threshold * 255``, in float32 arithmetic: the
    rule of `cytoserve.foreground.foreground_mask`. With a threshold that is not a number, no pixel
    is foreground.
    """

    def forward(
        self, frame_probability: Tensor, probability_threshold: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Split ``frame_probability`` uint8 ``[1, H, W]`` by a threshold float32 ``[1]``, 0..1.

        Returns ``probability`` uint8 ``[H, W]``, unchanged, and ``mask`` uint8 ``[H, W]``, 1 for
        foreground and 0 for background.
        """
        probability = frame_probability.squeeze(0)
        mask = probability.float() >= probability_threshold * 255
        return probability, mask.to(torch.uint8)
