"""Losses of the U-Nets: Dice, cross-entropy, their sum, and study S3's border weight map."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import segmentation_models_pytorch as smp
import torch
from scipy.ndimage import distance_transform_edt, find_objects
from torch import Tensor

BORDER_WEIGHT = 10.0
"""Height w0 of the border term in the U-Net paper."""

BORDER_SIGMA = 5.0
"""Range sigma of the border term in the U-Net paper, in pixels."""

_REACH = 5.0
"""Number of sigma beyond which distances count as infinite: w0 * exp(-12.5) is below 1e-4."""

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Loss ``(logits, targets, weights)`` -> scalar; the arguments are float32 ``[B, 1, H, W]``."""


def dice_loss(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Compute DiceLoss = 1 - DiceScore of the probabilities, over all pixels of the batch.

    Pixel weights are not used. Foreground found in an empty frame lowers the Dice score of its
    batch. A batch without any foreground has the loss 0; the sum with cross-entropy still learns
    from it.
    """
    loss: Tensor = smp.losses.DiceLoss(mode="binary", from_logits=True)(logits, targets)
    return loss


def cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Compute the mean over the pixels of weight times binary cross-entropy."""
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, weights)


def dice_and_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Compute the sum of Dice loss and cross-entropy."""
    return dice_loss(logits, targets, weights) + cross_entropy(logits, targets, weights)


LOSSES: dict[str, Loss] = {
    "dice": dice_loss,
    "cross-entropy": cross_entropy,
    "dice+cross-entropy": dice_and_cross_entropy,
}
"""Losses by their names in the settings."""


def balancing_weights(foreground_share: float, balance: float = 1.0) -> tuple[float, float]:
    """Compute the class weights w_c of background and foreground.

    In full balance both classes have the same total weight, and the mean weight is 1. A network
    trained in this way calls a pixel foreground if that is more likely than in the mean of all
    pixels. It finds rare objects, but makes them too large. Without balance every pixel weighs 1.

    Args:
        foreground_share: share of foreground among the training pixels.
        balance: power that the weights are raised to: 1 balances fully, 0 not at all.

    Raises:
        ValueError: one of the classes has no pixel.
    """
    if not 0 < foreground_share < 1:
        raise ValueError(
            "weights that balance the classes need pixels of both; the share of foreground is "
            f"{foreground_share:g}. Train on images that hold both."
        )
    return (0.5 / (1 - foreground_share)) ** balance, (0.5 / foreground_share) ** balance


def border_weights(
    labels: npt.NDArray[np.integer[Any]],
    class_weights: tuple[float, float],
    *,
    w0: float = BORDER_WEIGHT,
    sigma: float = BORDER_SIGMA,
) -> npt.NDArray[np.float32]:
    """Compute the weights w = w_c + w0 * exp(-(d1 + d2)^2 / (2 sigma^2)), float32 ``[H, W]``.

    This is equation 2 of Ronneberger et al. 2015, quoted by study S3. d1 and d2 are the distances,
    in pixels, to the nearest and the second nearest object. The second term is added to background
    pixels only. It makes the network learn those between objects that nearly touch.

    Args:
        labels: label image ``[H, W]``; 0 is background.
        class_weights: w_c of background and foreground, see :func:`balancing_weights`.
        w0: height of the border term.
        sigma: range of the border term in pixels.
    """
    background = labels == 0
    nearest = np.full(labels.shape, np.inf)
    second = np.full(labels.shape, np.inf)
    margin = int(np.ceil(_REACH * sigma))
    for number, place in enumerate(find_objects(labels), start=1):
        if place is None:  # no pixel has this number
            continue
        near = tuple(slice(max(s.start - margin, 0), s.stop + margin) for s in place)
        distance = distance_transform_edt(labels[near] != number)
        second[near] = np.minimum(second[near], np.maximum(nearest[near], distance))
        nearest[near] = np.minimum(nearest[near], distance)
    border = w0 * np.exp(-((nearest + second) ** 2) / (2 * sigma**2))
    weights: npt.NDArray[np.float32] = np.where(
        background, class_weights[0] + border, class_weights[1]
    ).astype(np.float32)
    return weights
