"""Training of SAM's image encoder without prompts, on cells, their borders and their centres.

A step with prompts teaches an encoder about sixteen cells of one frame, through a decoder that is
still untrained. A step here teaches it about every pixel, at a third of the cost. The small head
that predicts the maps from the embedding is discarded afterwards. Borders and offsets to the centre
separate touching cells (Neven et al. 2019, "Instance segmentation by jointly optimizing spatial
embeddings and clustering bandwidth").
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.sam.frames import SamFrame, Sides

GRID_PER_TOKEN = 4
"""Pixels of SAM's low-resolution grid per token of the embedding, along each axis."""

_MAPS = 4  # foreground, border, offset along x, along y
_FAR = 10.0  # grid pixels; the unit of offsets


class DenseHead(nn.Module):
    """Predicts the maps from an embedding: ``[B, E, g, g]`` -> ``[B, 4, G, G]``.

    The maps are the logits of foreground and border, and the offset (x, y) to the centre of the
    pixel's cell.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, _MAPS * GRID_PER_TOKEN**2, 1),
            nn.PixelShuffle(GRID_PER_TOKEN),
        )

    def forward(self, embedding: Tensor) -> Tensor:
        """Predict the maps of a batch of embeddings."""
        maps: Tensor = self.layers(embedding)
        return maps


def dense_truth(frame: SamFrame, sides: Sides) -> Tensor:
    """Make the true maps float32 ``[4, G, G]`` of a frame, as targets of :class:`DenseHead`.

    The frame must have at least one cell. The first map is the share of every pixel that is cell,
    0..1. Where cells overlap, a pixel belongs to the one that covers most of it.
    """
    truths = frame.truths(sides)
    share, owner = truths.max(dim=0)
    owner = torch.where(share > 0.5, owner + 1, 0)
    places = torch.arange(sides.grid) + 0.5
    areas = truths.sum(dim=(1, 2)).clamp(min=1e-3)
    centre_x = (truths.sum(dim=1) @ places) / areas
    centre_y = (truths.sum(dim=2) @ places) / areas
    background = torch.zeros(1)
    offsets = torch.stack(
        [
            torch.cat([background, centre_x])[owner] - places,
            torch.cat([background, centre_y])[owner] - places[:, None],
        ]
    )
    border = torch.zeros_like(share)
    across, down = owner[:, 1:] != owner[:, :-1], owner[1:] != owner[:-1]
    for part, differs in (
        (border[:, 1:], across),
        (border[:, :-1], across),
        (border[1:], down),
        (border[:-1], down),
    ):
        part[differs] = 1
    inside = (owner > 0) * offsets / _FAR
    return torch.cat([truths.sum(dim=0).clamp(max=1)[None], border[None], inside])


def dense_loss(maps: Tensor, truths: Tensor) -> Tensor:
    """Sum cross-entropy and Dice of the foreground, cross-entropy of borders, error of offsets.

    Args:
        maps: predictions ``[B, 4, G, G]`` of :class:`DenseHead`.
        truths: true maps ``[B, 4, G, G]``, see :func:`dense_truth`.
    """
    entropy = F.binary_cross_entropy_with_logits(maps[:, :2], truths[:, :2], reduction="none")
    cells = truths[:, 0]
    found = maps[:, 0].sigmoid()
    dice = 2 * (found * cells).sum() / (found.sum() + cells.sum()).clamp(min=1)
    inside = (cells > 0.5).float()
    wrong = F.smooth_l1_loss(maps[:, 2:], truths[:, 2:], reduction="none").sum(dim=1)
    offsets = (wrong * inside).sum() / inside.sum().clamp(min=1)
    loss: Tensor = entropy.mean(dim=(0, 2, 3)).sum() + (1 - dice) + offsets
    return loss
