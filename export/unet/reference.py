"""Reference for the U-Nets: torch on one frame or tile after another, as the studies do it.

The served pipelines are proven equal to this code and timed against it. It is written plainly and
shares with the graphs only the networks, the cleaning and the weights of the tiles.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from cytoserve.contract import TILE_MARGIN, TILE_SIZE, TILE_STEP
from export.unet.tiles import blend_weights
from training.preprocessing.clean import clean_image
from training.preprocessing.normalise import PrepareWholeFrame
from training.unet.network import UNet

Probability = npt.NDArray[np.float32]
"""Probability ``[H, W]``, 0..255 for 0..1."""


def predict_whole_frame(
    unet: UNet, image: npt.NDArray[np.generic], resize_to: tuple[int, int] | None = None
) -> Probability:
    """Probability of a camera frame ``[H, W]`` or ``[H, W, C]``, 0..255.

    ``resize_to`` (width, height) is the size at which the network sees the frame; None: the frame's
    own.
    """
    with torch.inference_mode():
        pixels = PrepareWholeFrame()(torch.from_numpy(np.atleast_3d(image).astype(np.int32)))
        if resize_to is not None:
            pixels = _resized(pixels.float(), (resize_to[1], resize_to[0]))
        probability = torch.sigmoid(unet(pixels))
        if resize_to is not None:
            probability = _resized(probability, image.shape[:2])
    return np.asarray(probability[0, 0].numpy() * 255, np.float32)


def predict_tile_by_tile(
    unet: UNet, image: npt.NDArray[np.generic], white_level: float
) -> Probability:
    """Probability of a camera frame ``[H, W]`` or ``[H, W, C]``, 0..255, from overlapping tiles.

    The tiles of the contract's grid are predicted one by one, added up with the weights of
    stitching, and divided by the sum of weights.
    """
    levels = np.clip(np.atleast_3d(image).astype(np.float32) * (255 / white_level), 0, 255)
    cleaned = clean_image(np.round(levels).astype(np.uint8))
    frame = np.repeat(cleaned, 3, axis=2) if cleaned.shape[2] == 1 else cleaned
    height, width = frame.shape[:2]
    rows, columns = -(-height // TILE_STEP), -(-width // TILE_STEP)
    after = [
        (n + 1) * TILE_STEP - TILE_MARGIN - side for n, side in ((rows, height), (columns, width))
    ]
    frame = np.pad(frame, ((TILE_MARGIN, after[0]), (TILE_MARGIN, after[1]), (0, 0)), "reflect")
    rising = blend_weights().numpy()
    along = np.concatenate([rising, rising[::-1]])
    window = np.outer(along, along)
    total, weight = np.zeros(frame.shape[:2]), np.zeros(frame.shape[:2])
    for row in range(rows):
        for column in range(columns):
            place = (
                slice(row * TILE_STEP, row * TILE_STEP + TILE_SIZE),
                slice(column * TILE_STEP, column * TILE_STEP + TILE_SIZE),
            )
            total[place] += window * predict_tile(unet, frame[place])
            weight[place] += window
    inside = (slice(TILE_MARGIN, TILE_MARGIN + height), slice(TILE_MARGIN, TILE_MARGIN + width))
    return (total[inside] / weight[inside]).astype(np.float32)


def predict_tile(unet: UNet, tile: npt.NDArray[np.uint8]) -> Probability:
    """Probability of one RGB tile uint8 ``[S, S, 3]``, 0..255."""
    with torch.inference_mode():
        pixels = torch.from_numpy(np.ascontiguousarray(tile.transpose(2, 0, 1)))
        probability = torch.sigmoid(unet(pixels[None]))[0, 0] * 255
    return np.asarray(probability.numpy(), np.float32)


def _resized(images: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    return torch.nn.functional.interpolate(
        images, size=tuple(size), mode="bilinear", antialias=True
    )
