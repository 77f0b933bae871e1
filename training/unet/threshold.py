"""Probability threshold of a trained U-Net: the one with the best Dice in validation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from cytoserve.foreground import FULL, foreground_mask
from training.checkpoint import ChosenThreshold
from training.evaluation import THRESHOLDS, choose_threshold
from training.unet.network import UNet

GREY_LEVELS = FULL + 1
"""Number of values that a served probability can have."""


def unet_threshold(
    unet: UNet, batches: Iterable[Sequence[Tensor]], device: torch.device | str = "cpu"
) -> ChosenThreshold | None:
    """Choose the threshold with the highest Dice over the pixels of all images together.

    Empty frames have no true foreground, so any foreground found in them lowers the score. The
    probabilities are rounded to the 256 levels that a server returns, and thresholded by its rule.

    Args:
        unet: trained U-Net.
        batches: images, masks and weights, see `training.unet.frames.Planes`.
        device: device to compute on.

    Returns:
        The threshold; None if no image has any foreground, so that none can be chosen.
    """
    unet = unet.to(device).eval()
    counts = torch.zeros(2 * GREY_LEVELS, dtype=torch.int64)
    for images, masks, _ in track(batches, "choosing the threshold", transient=True):
        with torch.inference_mode():
            levels = torch.round(torch.sigmoid(unet(images.to(device))) * FULL).cpu().int()
        places = levels + GREY_LEVELS * (masks > 0).int()
        counts += torch.bincount(places.flatten(), minlength=2 * GREY_LEVELS)
    background, foreground = counts.numpy().reshape(2, GREY_LEVELS)
    annotated = int(foreground.sum())
    if not annotated:
        return None
    every_level = np.arange(GREY_LEVELS, dtype=np.uint8)
    above = np.stack([foreground_mask(every_level, threshold) for threshold in THRESHOLDS])
    matched = above @ foreground
    return choose_threshold("Dice", matched, matched + above @ background, annotated)
