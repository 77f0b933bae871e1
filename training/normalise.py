"""Percentile normalisation: camera values of any depth to the 8 bits that networks see.

The one normalisation of the project: training images are made by this module, and the graph
`yolo_prepare` is an export of it, so a served frame looks to a network as its training images did.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

LOW_PERCENTILE = 0.5
HIGH_PERCENTILE = 99.5
SAMPLE_SIDE = 128
"""Percentiles are read from a regular grid of this many rows and columns: their cost does not
grow with the frame, and 0.5 % of 128 x 128 samples are still 82 values."""


def as_rgb(image: Tensor, channel_dim: int) -> Tensor:
    """Repeat the one channel of a grey image three times; an RGB image passes unchanged."""
    channels = torch._shape_as_tensor(image)[channel_dim]
    return image.index_select(channel_dim, torch.arange(3) % channels)


class PercentileLevels(nn.Module):
    """Camera values that become black and white: the 0.5th and 99.5th percentile of a frame.

    All channels share one pair of levels, so that stains keep their hue. Percentiles are
    interpolated linearly between order statistics, as `numpy.percentile` does by default, over a
    grid of ``SAMPLE_SIDE`` x ``SAMPLE_SIDE`` pixels spread evenly over the frame.
    """

    def forward(self, image: Tensor) -> Tensor:
        """``[low, high]`` float32 of a frame ``[H, W, C]``, C = 1 or 3, any integer dtype."""
        shape = torch._shape_as_tensor(image)
        grid = 2 * torch.arange(SAMPLE_SIDE) + 1
        rows = torch.div(grid * shape[0], 2 * SAMPLE_SIDE, rounding_mode="floor")
        columns = torch.div(grid * shape[1], 2 * SAMPLE_SIDE, rounding_mode="floor")
        samples = as_rgb(image.index_select(0, rows).index_select(1, columns), channel_dim=2)
        samples = samples.float().reshape(-1)
        low = _order_statistic(samples, LOW_PERCENTILE / 100, largest=False)
        high = _order_statistic(samples, 1 - HIGH_PERCENTILE / 100, largest=True)
        return torch.stack([low, high])


def _order_statistic(samples: Tensor, share: float, largest: bool) -> Tensor:
    """Interpolate the value that a ``share`` of the samples lies beyond, from either end."""
    count = SAMPLE_SIDE * SAMPLE_SIDE * 3  # fixed, so that the graph holds plain numbers
    position = share * (count - 1)
    below = math.floor(position)
    ends = torch.topk(samples, below + 2, largest=largest).values[below : below + 2]
    return ends[0] + (ends[1] - ends[0]) * (position - below)


def to_8_bit(values: Tensor, levels: Tensor) -> Tensor:
    """Map camera values to uint8: ``levels[0]`` and below to 0, ``levels[1]`` and above to 255.

    A frame of one single value has equal levels and becomes black. ``values`` is float32 of any
    shape, the result uint8 of the same shape.
    """
    span = torch.clamp(levels[1] - levels[0], min=1.0)
    return torch.round(torch.clamp((values - levels[0]) / span, 0.0, 1.0) * 255).to(torch.uint8)
