"""Study S2's scores: Dice and IoU of masks, and DS^C of a network between two resolutions."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torchmetrics.functional.classification import binary_f1_score, binary_jaccard_index

from training.preprocessing.normalise import PrepareWholeFrame
from training.unet.settings import parse_resolution

FOREGROUND_PROBABILITY = 0.5
"""Least probability at which a predicted pixel is foreground, after resizing."""


def dice_score(prediction: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> float:
    """Compute DiceScore(A, B) = 2|A∩B| / (|A|+|B|) of two masks; 1 if both are empty.

    The masks have the same shape. The score is the F1 score of their pixels.

    Raises:
        ValueError: the shapes differ.
    """
    return float(binary_f1_score(*_pixels(prediction, truth), zero_division=1, validate_args=False))


def iou_score(prediction: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> float:
    """Compute IoU(A, B), overlap over union, of two masks of one shape; 1 if both are empty.

    Raises:
        ValueError: the shapes differ.
    """
    pixels = _pixels(prediction, truth)
    return float(binary_jaccard_index(*pixels, zero_division=1, validate_args=False))


def _pixels(
    prediction: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]
) -> tuple[Tensor, Tensor]:
    """Convert both masks for torchmetrics, without its check for values other than 0 and 1."""
    if prediction.shape != truth.shape:
        raise ValueError(
            f"masks that are compared have one shape; got {prediction.shape} and {truth.shape}. "
            "Resize one to the other."
        )
    a, b = (torch.from_numpy(np.array(mask, bool)).int() for mask in (prediction, truth))
    return a, b


def resize_bilinear(values: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Resize ``[B, C, H, W]`` to ``size`` (H, W), as float32; None leaves the size as it is.

    If a side is reduced, the triangle filter widens with the scale (antialiasing), as in Pillow.
    The export resizes frames in the same way.
    """
    values = values.float()
    if size is None or size == tuple(values.shape[-2:]):
        return values
    return torch.nn.functional.interpolate(values, size, mode="bilinear", antialias=True)


def resize_image(images: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Resize uint8 images ``[B, C, H, W]`` to ``size`` (H, W), rounded to whole grey levels."""
    return torch.round(resize_bilinear(images, size)).to(torch.uint8)


def resize_truth(truth: npt.NDArray[Any], size: tuple[int, int] | None) -> npt.NDArray[np.bool_]:
    """Resize a truth ``[H, W]``, mask or label image, to ``size``; values above 0 become 1.

    Antialiasing is off, since together with this rule it would thicken every object.
    """
    mask = torch.from_numpy(np.asarray(truth) > 0)[None, None].float()
    if size is not None:
        mask = torch.nn.functional.interpolate(mask, size, mode="bilinear")
    resized: npt.NDArray[np.bool_] = (mask[0, 0] > 0).numpy()
    return resized


def predict_at(
    unet: nn.Module,
    image: npt.NDArray[Any] | Tensor,
    r1: str,
    size: tuple[int, int],
) -> npt.NDArray[np.bool_]:
    """Predict a mask ``[H, W]`` of ``size`` from ``image`` at resolution ``r1``.

    Args:
        unet: maps uint8 ``[1, 3, H, W]`` to logits ``[1, 1, H, W]``, see `training.unet.network`.
            It is used in its current mode, training or evaluation.
        image: a camera frame ``[H, W]`` or ``[H, W, C]`` of integers, C = 1 or 3, or one that
            `PrepareWholeFrame` has prepared: a uint8 tensor ``[1, 3, H, W]``.
        r1: a resolution, see :func:`parse_resolution`.
        size: (H, W) of the result.
    """
    prepared = image if isinstance(image, Tensor) else _prepare(image)
    with torch.inference_mode():
        logits = unet(resize_image(prepared, parse_resolution(r1)))
        probability = resize_bilinear(torch.sigmoid(logits.float()), size)
    mask: npt.NDArray[np.bool_] = (probability[0, 0] >= FOREGROUND_PROBABILITY).numpy()
    return mask


def dice_at(
    unet: nn.Module,
    image: npt.NDArray[Any] | Tensor,
    truth: npt.NDArray[Any],
    r1: str,
    r2: str,
) -> float:
    """Compute DS^C(x, y, R1, R2) of one image, as study S2 defines it.

    The image is resized to R1 and predicted. Prediction and truth are resized bilinearly to R2 and
    compared by :func:`dice_score`. A predicted pixel is foreground where its resized probability is
    ``FOREGROUND_PROBABILITY`` or more, a true one where its value exceeds 0. If R2 is ``native``,
    they are compared at the size of the truth.

    Args:
        unet: see :func:`predict_at`.
        image: see :func:`predict_at`.
        truth: mask or label image ``[H, W]``.
        r1: resolution of the prediction, see :func:`parse_resolution`.
        r2: resolution of the comparison.
    """
    truth_mask = resize_truth(truth, parse_resolution(r2))
    height, width = truth_mask.shape
    return dice_score(predict_at(unet, image, r1, (height, width)), truth_mask)


def _prepare(image: npt.NDArray[Any]) -> Tensor:
    channels = image[:, :, None] if image.ndim == 2 else image
    prepared: Tensor = PrepareWholeFrame()(torch.from_numpy(channels.astype(np.int32)))
    return prepared
