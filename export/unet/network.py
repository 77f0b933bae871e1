"""The U-Nets as they are served: whole frames, tiles, attention in parts, and their answers.

The answers are the foreground, and the step `nuclei_centres`: nuclei as points, from a frame's
probability.
"""

from __future__ import annotations

import copy
import itertools
import math

import torch
from segmentation_models_pytorch.encoders.mix_transformer import Attention
from torch import Tensor, nn

from export.graphs.trace import resize
from export.unet.tiles import EDGE
from training.checkpoint import CheckpointError
from training.unet.network import UNet

PARTS = 16
"""Number of parts that the tokens are split into.

On a 2592x1952 frame, the first stage of MiT-B3 weighs 316,224 tokens against 4,941: this takes 6.25
GB, and its softmax as much again. A part takes 0.4 GB."""

TILE_CHUNK = 4
"""Number of tiles that the nuclei network takes at once.

They take about 0.5 GB of activations in a plain U-Net."""

QUANTUM = 16
"""Steps per grey level to which the smoothed probability is rounded.

Rounding errors of different summation orders must not choose between neighbours."""

RAMP = 64
"""Period, in pixels, of the ramp that breaks ties.

The grid of tiles is a multiple of it, so parts of a frame that begin at a tile have the same
centres as the whole."""

LARGEST_RADIUS = 24
"""Largest supported radius of nuclei, in frame pixels.

Up to this radius, the neighbourhood of a pixel, 49 pixels wide, holds no value of the ramp twice.
What decides on a centre (24 pixels of neighbourhood, 36 of smoothing and 3 of cleaning around it)
stays within `TILE_MARGIN`: a client that sends a frame in parts overlaps them by that much more
than tiles need."""

FULL = 255 * QUANTUM
"""Value of the smoothed probability 1.

``FULL * RAMP**2`` is below 2**24, so float32 holds all keys exactly."""


class AttentionInParts(nn.Module):
    """smp's `Attention` on one part of the tokens after the other, with the same arithmetic.

    A token attends to all keys regardless of the other tokens, so parts change nothing. Sizes stay
    tensors, so that a traced graph takes any size. With fewer tokens than parts, some parts are
    empty.
    """

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """Map tokens ``[B, N, C]``, N = height * width, to tokens ``[B, N, C]``."""
        own = self.attention
        batch, count, channels = x.shape
        # Reshaped as smp does it: when traced, `unflatten` would fix the number of tokens.
        heads = (batch, -1, own.num_heads, channels // own.num_heads)
        queries = own.q(x).reshape(heads).transpose(1, 2)  # B, heads, N, channels per head
        parts = _parts(torch._shape_as_tensor(x)[1])
        if own.sr_ratio > 1:
            image = x.transpose(1, 2).reshape(batch, channels, height, width)
            x = own.norm(own.sr(image).flatten(2).transpose(1, 2))
        keys, values = (each.reshape(heads).transpose(1, 2) for each in own.kv(x).chunk(2, dim=2))
        keys = keys.transpose(2, 3)
        mixed = [
            torch.softmax(queries.index_select(2, part) @ keys * own.scale, dim=-1) @ values
            for part in parts
        ]
        out: Tensor = own.proj(
            torch.cat(mixed, dim=2).transpose(1, 2).reshape(batch, count, channels)
        )
        return out


def _parts(count: Tensor) -> list[Tensor]:
    """Indices of the tokens of every part."""
    step = torch.div(count + PARTS - 1, PARTS, rounding_mode="floor")
    ends = [torch.minimum(step * part, count) for part in range(PARTS + 1)]
    return [
        # A range traced with two ends would keep the length that it has in the example.
        torch.arange(end - start) + start  # type: ignore[call-overload]  # not a number
        for start, end in itertools.pairwise(ends)
    ]


def chunk_attention_queries(unet: UNet) -> UNet:
    """The network itself, or, if it has a MiT encoder, a copy that attends in parts."""
    if not any(isinstance(module, Attention) for module in unet.modules()):
        return unet
    changed = copy.deepcopy(unet)
    for parent in list(changed.modules()):
        for name, child in parent.named_children():
            if isinstance(child, Attention):
                setattr(parent, name, AttentionInParts(child))
    return changed


class WholeFrameNetwork(nn.Module):
    """A U-Net on whole frames, at their own resolution or at the one that it was trained on.

    Args:
        unet: the trained network.
        resize_to: (width, height) in pixels that every frame is resized to, and its probability
            back from, see `export.graphs.trace.resize`; None uses frames as they are.
    """

    def __init__(self, unet: UNet, resize_to: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.unet = chunk_attention_queries(unet)
        self.resize_to = resize_to

    def forward(self, frame_rgb: Tensor) -> Tensor:
        """Probability uint8 ``[B, H, W]``, 0..255 for 0..1, of frames uint8 ``[B, 3, H, W]``."""
        if self.resize_to is None:
            return _to_bytes(torch.sigmoid(self.unet(frame_rgb)))
        width, height = (torch.tensor(side) for side in self.resize_to)
        # Not rounded to grey levels again: a U-Net takes float32 frames just as well.
        trained = resize(frame_rgb.float(), height, width)
        shape = torch._shape_as_tensor(frame_rgb)
        return _to_bytes(resize(torch.sigmoid(self.unet(trained)), shape[2], shape[3]))


class TileNetwork(nn.Module):
    """A U-Net on tiles without their edges, which stitching does not use.

    On tiles of 256 pixels, leaving them out saves a plain U-Net a quarter of its multiplications
    and U-Net_ResNet50 a tenth.
    """

    def __init__(self, unet: UNet) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, tiles: Tensor) -> Tensor:
        """Probability of tiles.

        Args:
            tiles: RGB uint8 ``[T, 3, S, S]``.

        Returns:
            Probability uint8 ``[T, S, S]``, 0..255 for 0..1; it is 0 within
            `export.unet.tiles.EDGE` of the ends.
        """
        inner = _to_bytes(torch.sigmoid(self.unet.forward_inner(tiles, EDGE)))
        return nn.functional.pad(inner, (EDGE, EDGE, EDGE, EDGE))


def _to_bytes(probabilities: Tensor) -> Tensor:
    """The only channel of ``[B, 1, H, W]``, 0..1, rounded to 8 bits."""
    return torch.round(probabilities[:, 0] * 255).to(torch.uint8)


class Foreground(nn.Module):
    """The unchanged probability, and the mask of the pixels at or above a threshold.

    A pixel of value ``v`` is foreground where ``v >= threshold * 255``, in float32 arithmetic: the
    rule of `cytoserve.foreground.foreground_mask`. With a threshold that is not a number, no pixel
    is foreground.
    """

    def forward(
        self, frame_probability: Tensor, probability_threshold: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Split ``frame_probability`` uint8 ``[1, H, W]`` by a threshold float32 ``[1]``, 0..1.

        Returns ``probability`` uint8 ``[H, W]``, unchanged, and ``mask`` uint8 ``[H, W]``, 1 for
        foreground and 0 for background.
        """
        probability = frame_probability.squeeze(0)
        mask = probability.float() >= probability_threshold * 255
        return probability, mask.to(torch.uint8)


class NucleiCentres(nn.Module):
    """Peaks of the smoothed probability, one per nucleus.

    The probability is smoothed by a Gaussian of half the nuclei's radius, with the edge pixels
    repeated beyond the frame. A pixel is a centre if it is the highest within the radius (in a
    square of ``2 * radius + 1`` pixels) and at or above the threshold. Among equal neighbours, the
    one farthest down, then right, within the period of the ramp is taken.

    Args:
        radius: radius of the discs that the network was trained on, in frame pixels; 1 to
            ``LARGEST_RADIUS``.

    Raises:
        CheckpointError: the radius is outside this range.
    """

    kernel: Tensor

    def __init__(self, radius: float) -> None:
        super().__init__()
        if not 1 <= radius <= LARGEST_RADIUS:
            raise CheckpointError(
                f"nuclei of radius {radius:g} px cannot be told apart: 1 to {LARGEST_RADIUS} px "
                "are supported. Train with --radius within these."
            )
        sigma = radius / 2
        self.reach = math.ceil(3 * sigma)
        self.window = math.floor(radius)
        offsets = torch.arange(-self.reach, self.reach + 1, dtype=torch.float64)
        kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
        self.register_buffer("kernel", (kernel / kernel.sum()).float(), persistent=False)

    def forward(
        self, frame_probability: Tensor, probability_threshold: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Find the centres in ``frame_probability`` uint8 ``[1, H, W]``; threshold float32 ``[1]``.

        Returns ``centres`` float32 ``[N, 2]``, (x, y) in continuous frame pixels, and
        ``centre_scores`` float32 ``[N]``, the smoothed probability there, 0..1, descending; equal
        ones row by row of the frame.
        """
        smoothed = torch.round(self._smooth(frame_probability.float()[None]) * QUANTUM)[0, 0]
        shape = torch._shape_as_tensor(smoothed)
        width = shape[1]
        ramp = _ramp(shape[0])[:, None] * RAMP + _ramp(width)
        keys = smoothed * RAMP**2 + ramp.float()
        scores = smoothed / FULL
        peaks = (keys == self._highest(keys)) & (scores >= probability_threshold)
        places = torch.nonzero(peaks.flatten())[:, 0]
        found = scores.flatten().index_select(0, places)
        # No two keys are equal, so every implementation of sort gives the same order.
        levels = torch.round(found * FULL).to(torch.int64)
        order = torch.sort(levels * shape.prod() - places, descending=True).indices
        places, found = places.index_select(0, order), found.index_select(0, order)
        rows = torch.div(places, width, rounding_mode="floor")
        centres = torch.stack([places - rows * width, rows], dim=1).float() + 0.5
        return centres, found

    def _smooth(self, values: Tensor) -> Tensor:
        reach = self.reach
        padded = nn.functional.pad(values, (reach, reach, reach, reach), mode="replicate")
        along = nn.functional.conv2d(padded, self.kernel.view(1, 1, 1, -1))
        return nn.functional.conv2d(along, self.kernel.view(1, 1, -1, 1))

    def _highest(self, keys: Tensor) -> Tensor:
        """The highest of ``keys`` ``[H, W]``, all >= 0, within the window around each."""
        return _highest_along(_highest_along(keys.T, self.window).T, self.window)


def _highest_along(keys: Tensor, reach: int) -> Tensor:
    """The highest within ``reach`` rows above and below.

    Windows double from one row to two, four and so on. This takes 6 comparisons per pixel for a
    reach of 16, where max-pooling takes 33.
    """
    keys = nn.functional.pad(keys, [0, 0, reach, reach])
    window, seen = 2 * reach + 1, 1
    while seen < window:
        step = min(seen, window - seen)
        keys = torch.maximum(keys[:-step], keys[step:])
        seen += step
    return keys


def _ramp(length: Tensor) -> Tensor:
    indices: Tensor = torch.arange(length)  # type: ignore[call-overload]  # not a number
    return indices % RAMP
