"""SAM's two-way transformer for prompts of different lengths; shared parts are computed once.

The arithmetic is that of `segment_anything.modeling.transformer` (Kirillov et al. 2023, appendix A)
with its own weights; two things are added. Image tokens with a leading dim of 1 keep it until a
prompt has changed them, so that keys, values and queries of the first layer's image side are
computed once for all prompts. And no token attends to tokens that only fill up a row.
"""

from __future__ import annotations

import math

import torch
from segment_anything.modeling.transformer import Attention, TwoWayTransformer
from torch import Tensor

IGNORED = -1e4
"""Bias on the attention to a token that fills up a row: its share is exp(-10000) = 0."""


def attend_both_ways(
    transformer: TwoWayTransformer, image: Tensor, positions: Tensor, tokens: Tensor, filler: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute what `TwoWayTransformer.forward` gives for every prompt alone, without its filler.

    Args:
        transformer: transformer of a `MaskDecoder`.
        image: tokens of the image float32 ``[1 or N, G * G, E]``.
        positions: encoding of their positions float32 ``[1, G * G, E]``.
        tokens: tokens of the prompts float32 ``[N, T, E]``.
        filler: bool ``[N, T]``, tokens that only fill up a row.

    Returns:
        Tokens float32 ``[N, T, E]`` (those of the filler mean nothing) and the image's
        float32 ``[N, G * G, E]``.
    """
    ignored = (filler.float() * IGNORED)[:, None, None, :]  # N, heads, queries, T
    queries, keys = tokens, image
    for layer in transformer.layers:
        if layer.skip_first_layer_pe:
            queries = _attend(layer.self_attn, queries, queries, queries, ignored)
        else:
            placed = queries + tokens
            queries = queries + _attend(layer.self_attn, placed, placed, queries, ignored)
        queries = layer.norm1(queries)
        seen = _attend(layer.cross_attn_token_to_image, queries + tokens, keys + positions, keys)
        queries = layer.norm2(queries + seen)
        queries = layer.norm3(queries + layer.mlp(queries))
        told = _attend(
            layer.cross_attn_image_to_token, keys + positions, queries + tokens, queries, ignored
        )
        keys = layer.norm4(keys + told)
    seen = _attend(transformer.final_attn_token_to_image, queries + tokens, keys + positions, keys)
    return transformer.norm_final_attn(queries + seen), keys


def _attend(
    attention: Attention, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None
) -> Tensor:
    """`Attention.forward` with a bias on the attention; leading dims are 1 or N."""
    size = attention.internal_dim // attention.num_heads
    q, k, v = (
        projection(values).unflatten(2, (attention.num_heads, size)).transpose(1, 2)
        for projection, values in (
            (attention.q_proj, q),
            (attention.k_proj, k),
            (attention.v_proj, v),
        )
    )  # N, heads, T, size
    weights = q @ k.transpose(2, 3) / math.sqrt(size)
    if bias is not None:
        weights = weights + bias
    mixed = (torch.softmax(weights, dim=-1) @ v).transpose(1, 2).flatten(2)
    out: Tensor = attention.out_proj(mixed)
    return out
