"""Loss of SAM: the loss of its best mask, and the error of the predicted IoUs."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

FOCAL_WEIGHT = 20.0
"""Weight of the focal loss relative to the Dice loss, 20 to 1 (Kirillov et al. 2023, appendix
A)."""

MaskLoss = Literal["focal+dice", "surroundings+dice"]
"""Kind of mask loss: SAM's own, or cross-entropy weighted by `surroundings` for a network that
starts from random weights. In a frame with hundreds of cells, all but a few thousandths of the
pixels lie outside the prompted cell. With equal weights the network first learns to predict
nothing."""


def surroundings(truths: Tensor) -> Tensor:
    """Compute the weight of every pixel, ``[N, G, G]``; the sum is 2 for each cell.

    The pixels in a box around the cell, of twice its sides, share a weight of 1, so that both sides
    of its border count equally. All other pixels share the same weight.

    Args:
        truths: ``[N, G, G]``, share of every pixel that the cell covers, 0..1.
    """
    near = (
        _twice_as_long(truths.amax(dim=2))[:, :, None] & _twice_as_long(truths.amax(dim=1))[:, None]
    )
    inside = near.sum(dim=(1, 2), keepdim=True)
    outside = (near[0].numel() - inside).clamp(min=1)
    return torch.where(near, 1 / inside.clamp(min=1), 1 / outside)


def _twice_as_long(profile: Tensor) -> Tensor:
    """Mark the run of values above 0 in ``[N, G]``, extended by half its length on either side."""
    indices = torch.arange(profile.shape[1], device=profile.device)
    covered = profile > 0
    first = torch.where(covered, indices, profile.shape[1]).amin(dim=1, keepdim=True)
    last = torch.where(covered, indices, -1).amax(dim=1, keepdim=True)
    reach = (last - first + 2) // 2
    return (indices >= first - reach) & (indices <= last + reach)


def mask_losses(logits: Tensor, truths: Tensor, kind: MaskLoss) -> Tensor:
    """Compute the loss ``[N, 3]`` of every mask.

    Args:
        logits: ``[N, 3, G, G]``, the masks for each of N prompts.
        truths: ``[N, G, G]``, share of every pixel that the cell covers, 0..1.
        kind: kind of the loss.
    """
    targets = truths[:, None].expand_as(logits)
    if kind == "focal+dice":
        by_pixel = FOCAL_WEIGHT * sigmoid_focal_loss(logits, targets).mean(dim=(2, 3))
    else:
        entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        by_pixel = (entropy * surroundings(truths)[:, None]).sum(dim=(2, 3))
    probabilities = logits.sigmoid()
    both = (probabilities * targets).sum(dim=(2, 3))
    either = probabilities.sum(dim=(2, 3)) + targets.sum(dim=(2, 3))
    dice: Tensor = 1 - (2 * both + 1) / (either + 1)
    loss: Tensor = by_pixel + dice
    return loss


def mask_ious(logits: Tensor, truths: Tensor) -> Tensor:
    """Compute the IoU ``[N, 3]`` of every mask, cut at probability 0.5, with the truth cut at 0.5.

    Shapes are those of :func:`mask_losses`. The IoU is 0 if both are empty.
    """
    predicted, targets = logits > 0, (truths > 0.5)[:, None]
    both = (predicted & targets).sum(dim=(2, 3))
    either = (predicted | targets).sum(dim=(2, 3))
    return both / either.clamp(min=1)


def sam_loss(logits: Tensor, qualities: Tensor, truths: Tensor, kind: MaskLoss) -> Tensor:
    """Compute the loss of one frame's prompts, a scalar.

    It is the sum of two terms. The first is the mask loss of the best mask alone, so that three
    masks may represent three interpretations of a prompt. The second is the squared error of the
    predicted IoUs of all three masks, since these select the best mask (Kirillov et al. 2023,
    section 3 and appendix A).

    Args:
        logits: ``[N, 3, G, G]``, see :func:`mask_losses`.
        qualities: ``[N, 3]``, the predicted IoUs.
        truths: ``[N, G, G]``.
        kind: kind of the mask loss.
    """
    best = mask_losses(logits, truths, kind).min(dim=1).values.mean()
    errors = (qualities - mask_ious(logits, truths)) ** 2
    return best + errors.mean()
