"""Loss of SAM: that of the best of its masks, and the error of predicted IoUs."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

FOCAL_WEIGHT = 20.0
"""Focal loss to Dice loss, 20 to 1 (Kirillov et al. 2023, appendix A)."""


MaskLoss = Literal["focal+dice", "cross-entropy+dice"]
"""SAM's own; or, for a network that begins with random weights and cells that are a hundredth of
the frame, the cross-entropy of all pixels divided by the cell's area, so that it weighs as much as
Dice."""


def mask_losses(logits: Tensor, truths: Tensor, kind: MaskLoss) -> Tensor:
    """Loss ``[N, 3]`` of every mask.

    Args:
        logits: ``[N, 3, G, G]``, the masks for each of N prompts.
        truths: ``[N, G, G]``, how much of every pixel is the cell's, 0..1.
        kind: of the loss.
    """
    targets = truths[:, None].expand_as(logits)
    if kind == "focal+dice":
        by_pixel = FOCAL_WEIGHT * sigmoid_focal_loss(logits, targets).mean(dim=(2, 3))
    else:
        entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        by_pixel = entropy.sum(dim=(2, 3)) / (targets.sum(dim=(2, 3)) + 1)
    probabilities = logits.sigmoid()
    both = (probabilities * targets).sum(dim=(2, 3))
    either = probabilities.sum(dim=(2, 3)) + targets.sum(dim=(2, 3))
    dice: Tensor = 1 - (2 * both + 1) / (either + 1)
    loss: Tensor = by_pixel + dice
    return loss


def mask_ious(logits: Tensor, truths: Tensor) -> Tensor:
    """IoU ``[N, 3]`` of every mask, cut at probability 0.5, with the truth cut at one half.

    Shapes are those of :func:`mask_losses`; 0 where both are empty.
    """
    predicted, targets = logits > 0, (truths > 0.5)[:, None]
    both = (predicted & targets).sum(dim=(2, 3))
    either = (predicted | targets).sum(dim=(2, 3))
    return both / either.clamp(min=1)


def sam_loss(logits: Tensor, qualities: Tensor, truths: Tensor, kind: MaskLoss) -> Tensor:
    """Loss of one frame's prompts, a scalar.

    The mask loss of the best mask alone, so that three masks may stand for three readings of a
    prompt, and the squared error of the predicted IoUs of all three, since the best is told by
    them (Kirillov et al. 2023, section 3 and appendix A).

    Args:
        logits: ``[N, 3, G, G]``, see :func:`mask_losses`.
        qualities: ``[N, 3]``, the predicted IoUs.
        truths: ``[N, G, G]``.
        kind: of the mask loss.
    """
    best = mask_losses(logits, truths, kind).min(dim=1).values.mean()
    errors = (qualities - mask_ious(logits, truths)) ** 2
    return best + errors.mean()
