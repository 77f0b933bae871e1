"""Normalisation: converts camera values of any depth to the 8 bits that networks see.

All networks see a frame between two of its percentiles, :class:`PercentileLevels`. The U-Nets of
study S2 see it with raised contrast, :class:`PrepareWholeFrame`.

This is the only normalisation in the project. This module makes the training images, and the graphs
`yolo_prepare` and `glioma_prepare` are exported from it. So a served frame looks to a network like
its training images.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

LOW_PERCENTILE = 0.5
HIGH_PERCENTILE = 99.5
SAMPLE_SIDE = 128
"""Rows and columns of the regular grid that percentiles are computed from. Their cost does not grow
with the frame, and 0.5 % of 128 x 128 samples are still 82 values."""

NOISE_LAG = 3
"""Distance in pixels between samples whose difference is taken as noise. Binning, demosaicing and
compression blur noise over a pixel or two; cells and their surroundings are smooth over more."""

NOISE_SIDE = 64
"""Rows and columns of the grid that the noise is measured on."""

MIN_SPAN = 16.0
"""Least distance between black and white, in standard deviations of the frame's noise.

The percentiles of pure noise lie 5.2 standard deviations apart, so percentiles alone would stretch
noise to full contrast. With 16, noise covers a third of the grey range, and a cell that is brighter
than its surroundings by 3 standard deviations still stands out by 48 of 255 grey levels. The noise
is measured on the frame itself. The range of the training frames cannot be used instead: the same
specimen has different camera values with another camera, exposure or bit depth."""

MIN_NOISE = 1.0
"""Least standard deviation of the noise that is assumed, in camera values. In a frame with only a
few photons, or in a dark 8-bit frame, the median of all differences is 0."""

_MEDIAN_TO_SIGMA = 1.4826
"""Standard deviation of a normal distribution per median of absolute values."""


def as_rgb(image: Tensor, channel_dim: int) -> Tensor:
    """Repeat the one channel of a grey image three times; an RGB image passes unchanged."""
    channels = torch._shape_as_tensor(image)[channel_dim]
    return image.index_select(channel_dim, torch.arange(3) % channels)


class PercentileLevels(nn.Module):
    """Camera values that become black and white: the 0.5th and 99.5th percentile of a frame.

    All channels share one pair of levels, so that stains keep their hue. Percentiles are
    interpolated linearly between order statistics, as `numpy.percentile` does by default, over a
    grid of ``SAMPLE_SIDE`` x ``SAMPLE_SIDE`` pixels spread evenly over the frame.

    The levels lie at least ``MIN_SPAN`` standard deviations of the noise apart. Where they are
    widened, their midpoint stays. So an empty frame becomes an even grey with weak noise.
    """

    def forward(self, image: Tensor) -> Tensor:
        """Levels ``[low, high]`` float32 of a frame ``[H, W, C]``; C = 1 or 3, any integer type."""
        rows, columns = _grid(image, SAMPLE_SIDE)
        samples = as_rgb(image.index_select(0, rows).index_select(1, columns), channel_dim=2)
        samples = samples.float().reshape(-1)
        low = _order_statistic(samples, LOW_PERCENTILE / 100, largest=False)
        high = _order_statistic(samples, 1 - HIGH_PERCENTILE / 100, largest=True)
        middle = (low + high) / 2
        spread = torch.clamp(noise(image), min=MIN_NOISE)
        half = torch.maximum((high - low) / 2, spread * (MIN_SPAN / 2))
        return torch.stack([middle - half, middle + half])


def noise(image: Tensor) -> Tensor:
    """Noise of a frame ``[H, W, C]``: standard deviation in camera values, float32 ``[]``.

    The estimate is robust: it uses second differences along the rows, which neither a gradient nor
    the outlines of cells change, and takes the median of their absolute values over a grid of
    pixels (after Immerkær 1996, "Fast noise variance estimation"). Only the first channel is
    measured.
    """
    rows, columns = _grid(image, NOISE_SIDE)
    last = torch._shape_as_tensor(image)[1] - 1
    columns = torch.minimum(
        torch.clamp(columns, min=NOISE_LAG), torch.clamp(last - NOISE_LAG, min=0)
    )
    plane = image.index_select(0, rows).index_select(2, torch.zeros(1, dtype=torch.int64))
    left = torch.clamp(columns - NOISE_LAG, min=0)
    right = torch.minimum(columns + NOISE_LAG, last)
    middle, before, after = (
        plane.index_select(1, place).float() for place in (columns, left, right)
    )
    differences = (before - 2 * middle + after).abs().reshape(-1)
    median = _order_statistic_of(differences, 0.5)
    return median * (_MEDIAN_TO_SIGMA / math.sqrt(6))


def _grid(image: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Rows and columns of ``side`` x ``side`` pixels, spread evenly over ``[H, W, C]``."""
    shape = torch._shape_as_tensor(image)
    grid = 2 * torch.arange(side) + 1
    rows = torch.div(grid * shape[0], 2 * side, rounding_mode="floor")
    return rows, torch.div(grid * shape[1], 2 * side, rounding_mode="floor")


def _order_statistic_of(samples: Tensor, share: float) -> Tensor:
    """Return the sample that ``share`` of all ``NOISE_SIDE ** 2`` samples lie below."""
    count = int(NOISE_SIDE**2 * share)  # fixed, so that the graph holds a plain number
    return torch.topk(samples, count, largest=False).values[-1]


def _order_statistic(samples: Tensor, share: float, largest: bool) -> Tensor:
    """Interpolate the value that a ``share`` of the samples lies beyond, at either end."""
    count = SAMPLE_SIDE * SAMPLE_SIDE * 3  # fixed, so that the graph holds plain numbers
    position = share * (count - 1)
    below = math.floor(position)
    ends = torch.topk(samples, below + 2, largest=largest).values[below : below + 2]
    return ends[0] + (ends[1] - ends[0]) * (position - below)


def to_8_bit(values: Tensor, levels: Tensor) -> Tensor:
    """Map camera values to uint8: ``levels[0]`` and below to 0, ``levels[1]`` and above to 255.

    A frame of a single value becomes middle grey, 128. ``values`` is float32 of any shape, the
    result uint8 of the same shape.
    """
    span = torch.clamp(levels[1] - levels[0], min=1.0)
    # Flattened: if the last dim is 1, ONNX Runtime computes value by value, 20 times slower.
    grey = (values.reshape(-1) - levels[0]) * (255 / span)
    return torch.round(torch.clamp(grey, 0.0, 255.0)).to(torch.uint8).reshape(values.shape)


IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation per channel of RGB in 0..1, as torchvision documents them."""

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
