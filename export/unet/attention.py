"""Attention of the MiT encoders on whole frames, in parts that fit into memory."""

from __future__ import annotations

import copy
import itertools

import torch
from segmentation_models_pytorch.encoders.mix_transformer import Attention
from torch import Tensor, nn

from training.unet.network import UNet

PARTS = 16
"""Number of parts that the tokens are split into.

On a 2592x1952 frame, the first stage of MiT-B3 weighs 316,224 tokens against 4,941: this takes 6.25
GB, and its softmax as much again. A part takes 0.4 GB."""


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
