"""Random inputs for tracing modules and comparing graphs; they are the same in every run."""

from __future__ import annotations

import torch
from torch import Tensor


def camera_frame(height: int, width: int, channels: int) -> Tensor:
    """A camera frame int32 ``[H, W, C]``: 12-bit values on a gradient."""
    gradient = torch.linspace(0, 1000, width).to(torch.int32)[None, :, None]
    noise = torch.randint(0, 3000, (height, width, channels), generator=generator())
    return noise.to(torch.int32) + gradient


def pixels(*shape: int) -> Tensor:
    """Uniform noise, uint8 of any shape."""
    return torch.randint(0, 256, shape, generator=generator(), dtype=torch.uint8)


def generator() -> torch.Generator:
    """A generator that starts at the same seed each time."""
    return torch.Generator().manual_seed(0)
