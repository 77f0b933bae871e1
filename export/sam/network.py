"""SAM as it is served: image encoder, boxes to prompts, decoder, and masks to cells.

The modules are those of the steps `sam_encoder`, `sam_box_prompts`, `sam_decoder` and `sam_cells`.
"""

from __future__ import annotations

import copy
import math

import torch
from segment_anything.modeling import Sam
from segment_anything.modeling.transformer import Attention, TwoWayTransformer
from torch import Tensor, nn

from cytoserve.contract import MASK_SIZE, POINT_LABELS, SAM_MASK_SIZE
from export.sam.geometry import content_size, mask_boxes, mask_sampling, sides_left_open
from training.postprocessing import INSIDE, suppress_by_masks
from training.sam.prompts import Prompts, embed_prompts, paste_coarse_masks

CHUNK = 8
"""Number of prompts that are decoded at once: in published sizes, each holds about 40 MB."""

BELOW_HALF = 127
"""The highest value of a patch pixel that is outside the cell, see `cytoserve.patches`."""

IGNORED = -1e4
"""Bias on the attention to a token that fills up a row: its share is exp(-10000) = 0."""

_NONE, _BACKGROUND, _FOREGROUND = (POINT_LABELS[n] for n in ("none", "background", "foreground"))
_BOX_START = POINT_LABELS["box_start"]


class ImageEncoder(nn.Module):
    """`Sam.preprocess` and the vision transformer, for a whole frame and without prompts.

    Args:
        sam: a SAM of any size.
        half: compute in float16, which halves the file and, on a GPU, the time; the dtypes of input
            and output stay.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, sam: Sam, half: bool = False) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(sam.image_encoder).eval()
        self.register_buffer("mean", sam.pixel_mean.clone())
        self.register_buffer("deviation", sam.pixel_std.clone())
        self.half_precision = half
        if half:
            self.encoder.half()

    def forward(self, sam_image: Tensor) -> Tensor:
        """Embedding float32 ``[B, E, G, G]`` of images uint8 ``[B, 4, S, S]``.

        The images are those of `export.sam.prepare.SamPrepare`; an image with another side is
        refused.
        """
        side = self.encoder.img_size
        # The tokens' positions are learned for one side. It is fixed here, so that a graph that
        # gets another side fails instead of giving a wrong answer.
        shape = torch._shape_as_tensor(sam_image)
        images = sam_image.reshape([shape[0], 4, side, side])  # type: ignore[list-item]  # traced
        shown = (images[:, 3:] > 0).float()
        pixels = (images[:, :3].float() - self.mean) / self.deviation * shown
        if self.half_precision:
            pixels = pixels.half()
        embedding: Tensor = self.encoder(pixels)
        return sides_left_open(embedding.float(), shape[2] // side, first=1)


class SamBoxPrompts(nn.Module):
    """Turn every box into a prompt: its two corners, without a coarse mask."""

    def forward(self, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Make prompts of ``boxes`` float32 ``[N, 4]`` in frame pixels.

        Returns ``prompt_points`` float32 ``[N, 2, 2]``, ``prompt_labels`` int32 ``[N, 2]``,
        ``coarse_masks`` uint8 ``[0, M, M]`` and ``coarse_boxes`` float32 ``[0, 4]``.
        """
        corners = torch.tensor(
            [POINT_LABELS["box_start"], POINT_LABELS["box_end"]], dtype=torch.int32
        )
        labels = corners + torch.zeros_like(boxes[:, :2], dtype=torch.int32)
        count = torch._shape_as_tensor(boxes)[0]
        # Neither the points of a prompt nor the number of coarse masks may be fixed in the graph.
        none, one = boxes[: (count < 0).long()], (count >= 0).long()
        masks = torch.zeros((MASK_SIZE, MASK_SIZE), dtype=torch.int32) + none[:, :1, None].int()
        points = boxes.reshape(-1, 2, 2)[:, : 2 * one]
        return points, sides_left_open(labels, one, first=1), masks.to(torch.uint8), none


class SamDecoder(nn.Module):
    """SAM's prompt encoder and mask decoder, with masks as patches in their boxes.

    SAM sees a frame whole or in tiles, see `export.sam.prepare`. A prompt is decoded in the tile in
    which it lies farthest from the tile's inner edges; its mask ends where that tile ends.

    Each prompt is answered as `SamPredictor.predict` answers it alone with ``multimask_output``: by
    the mask of the best predicted quality. Points labelled ``none`` are left out. Prompts of points
    without a box get the one padding point that SAM was trained with. A coarse box without area
    means that the prompt has no coarse mask.
    """

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.prompt_encoder = copy.deepcopy(sam.prompt_encoder).eval()
        self.mask_decoder = copy.deepcopy(sam.mask_decoder).eval()
        self.side = sam.image_encoder.img_size
        [self.grid] = set(self.prompt_encoder.image_embedding_size)
        self.channels = self.mask_decoder.transformer_dim

    def forward(
        self,
        sam_embedding: Tensor,
        sam_tiles: Tensor,
        prompt_points: Tensor,
        prompt_labels: Tensor,
        coarse_masks: Tensor,
        coarse_boxes: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode N prompts on one frame.

        Args:
            sam_embedding: embeddings float32 ``[T, E, G, G]`` of `ImageEncoder`.
            sam_tiles: embedded tiles int32 ``[T, 4]``, (x0, y0, x1, y1) in frame pixels.
            prompt_points: points float32 ``[N, P, 2]``, (x, y) in frame pixels.
            prompt_labels: labels of the points int32 ``[N, P]``, values of `POINT_LABELS`.
            coarse_masks: uint8 ``[C, M, M]``, the probability 0..255 in its box; C is N or 0.
            coarse_boxes: float32 ``[C, 4]`` in frame pixels.

        Returns:
            prompt_boxes: float32 ``[N, 4]``, around the mask; where that is empty, the prompt's
                box, or the hull of its foreground points, or zeros.
            prompt_masks: uint8 ``[N, M, M]``, the mask's probability 0..255 in its box.
            qualities: float32 ``[N]``, the IoU that SAM predicts.
        """
        size = (sam_tiles[0, 2:] - sam_tiles[0, :2]).flip(0).long()  # height, width
        content = content_size(size, self.side)
        scale = (content.double() / size.double()).flip(0).float()  # x, y
        around = _prompt_boxes(prompt_points, prompt_labels)
        tile = _inmost(around, sam_tiles.float())
        corners = sam_tiles.float()[:, :2].index_select(0, tile).repeat(1, 2)  # N, x, y, x, y
        count, coarse = (torch._shape_as_tensor(each)[0] for each in (tile, coarse_boxes))
        tokens, filler = self._tokens((prompt_points - corners[:, None, :2]) * scale, prompt_labels)
        # All prompts on a whole frame share one embedding, so that what depends on it alone is
        # computed once. With several tiles, every prompt has its own.
        several = torch.clamp(torch._shape_as_tensor(sam_tiles)[0] - 1, max=1)
        places = torch.cat([torch.zeros_like(sam_tiles[0, :1]).long(), tile])
        embedding = sam_embedding.index_select(0, places[several : 1 + several * count])
        image = self._image_tokens(
            embedding, coarse_masks, (coarse_boxes - corners[:coarse]) * scale.repeat(2)
        )
        logits, qualities = self._best_masks(image, tokens, filler)
        boxes, found = mask_boxes(logits, size, content, self.side)
        boxes = torch.where(found[:, None], boxes, around - corners)
        patches = self._patches(logits, boxes, size, content)
        # Between the frame's pixels, an empty mask may still rise above one half.
        patches = torch.where(found[:, None, None], patches, torch.clamp(patches, max=BELOW_HALF))
        return boxes + corners, patches, qualities

    def _tokens(self, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Output and prompt tokens ``[N, T, E]`` of points in SAM's square, and flags of filler."""
        count = torch._shape_as_tensor(points)[0]
        points = torch.cat([points, torch.zeros((count, 1, 2))], dim=1)  # type: ignore[arg-type]
        has_points = ((labels == _BACKGROUND) | (labels == _FOREGROUND)).any(dim=1, keepdim=True)
        no_padding = (labels >= _BOX_START).any(dim=1, keepdim=True) | ~has_points
        filler = torch.cat([labels == _NONE, no_padding], dim=1)
        labels = torch.cat([labels, no_padding.int() * 0 + _NONE], dim=1)
        sparse, _ = embed_prompts(self.prompt_encoder, Prompts(points, labels, None))
        decoder = self.mask_decoder
        own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        own = own.unsqueeze(0) + torch.zeros_like(sparse[:, :1])  # one row per prompt
        kept = torch.zeros_like(own[:, :, 0], dtype=torch.bool)
        return torch.cat([own, sparse], dim=1), torch.cat([kept, filler], dim=1)

    def _image_tokens(self, embedding: Tensor, masks: Tensor, boxes: Tensor) -> Tensor:
        """Tokens ``[N, G * G, E]`` of the image with the coarse masks.

        ``embedding`` is ``[1 or N, E, G, G]``; with one embedding and no coarse masks, the tokens
        are ``[1, G * G, E]``. ``boxes`` are in pixels of SAM's square.
        """
        encoder = self.prompt_encoder
        mask_side = encoder.mask_input_size[0]
        logits = paste_coarse_masks(masks, boxes * (mask_side / self.side), mask_side)
        none = encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        given = ((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))[:, None, None, None]
        dense = torch.where(given, encoder.mask_downscaling(logits), none)
        # Row 0 if there are no coarse masks, otherwise all other rows.
        dense = torch.cat([none.expand(1, -1, self.grid, self.grid), dense])
        dense = dense[torch.clamp(torch._shape_as_tensor(masks)[0], max=1) :]
        return (embedding + dense).flatten(2).transpose(1, 2)

    def _best_masks(self, image: Tensor, tokens: Tensor, filler: Tensor) -> tuple[Tensor, Tensor]:
        """Run `MaskDecoder.predict_masks` up to the mask of the best quality.

        Returns its logits ``[N, 4 * G, 4 * G]`` and its quality ``[N]``.
        """
        decoder = self.mask_decoder
        positions = self.prompt_encoder.get_dense_pe().flatten(2).transpose(1, 2)
        answers, image = attend_both_ways(decoder.transformer, image, positions, tokens, filler)
        # The first mask is that of `multimask_output=False`.
        qualities, best = decoder.iou_prediction_head(answers[:, 0])[:, 1:].max(dim=1)
        weights = torch.stack(
            [
                mlp(answers[:, 2 + index])
                for index, mlp in enumerate(decoder.output_hypernetworks_mlps[1:])
            ],
            dim=1,
        )  # N, 3, E / 8
        chosen = weights.gather(1, best[:, None, None].expand(-1, 1, weights.shape[2]))
        grid = image.transpose(1, 2).reshape(-1, self.channels, self.grid, self.grid)
        logits = chosen @ decoder.output_upscaling(grid).flatten(2)
        return logits.reshape(-1, 4 * self.grid, 4 * self.grid), qualities

    def _patches(self, logits: Tensor, boxes: Tensor, size: Tensor, content: Tensor) -> Tensor:
        """Probability patches uint8 ``[N, M, M]`` of boxes in pixels of a tile of ``size``."""
        steps = (torch.arange(SAM_MASK_SIZE) + 0.5) / SAM_MASK_SIZE
        rows, columns = (
            mask_sampling(
                (boxes[:, [low]] + steps * (boxes[:, [low + 2]] - boxes[:, [low]]))
                * (content[axis].double() / size[axis].double()).float()
                - 0.5,
                content[axis],
                self.side,
                4 * self.grid,
            )
            for axis, low in ((0, 1), (1, 0))
        )
        sampled = rows @ logits @ columns.transpose(1, 2)
        return torch.round(torch.sigmoid(sampled) * 255).to(torch.uint8)


class SamCells(nn.Module):
    """Cells in the order of the quality that SAM predicts, which is their score.

    Their classes come from the detector. Each cell is answered once: where two boxes lead SAM to
    one cell, the better mask stays. A mask without a pixel is no cell.
    """

    def forward(
        self,
        prompt_boxes: Tensor,
        prompt_masks: Tensor,
        qualities: Tensor,
        detected_ids: Tensor,
        detected_probs: Tensor,
        cells_detected: Tensor,
        overlap_threshold: Tensor,
    ) -> tuple[Tensor, ...]:
        """Choose and sort the cells among N detected ones.

        Args:
            prompt_boxes: boxes of the masks, float32 ``[N, 4]`` in frame pixels.
            prompt_masks: SAM's masks, uint8 ``[N, M, M]``.
            qualities: qualities that SAM predicts, float32 ``[N]``.
            detected_ids: class ids of the detector, int32 ``[N]``.
            detected_probs: class probabilities of the detector, float32 ``[N, K]``.
            cells_detected: number of cells of the detector, int32 ``[1]``; more than N where it
                reached its cap.
            overlap_threshold: float32 ``[1]``, share of the smaller mask above which the mask of
                the lower quality is dropped, see `training.postprocessing`.

        Returns:
            boxes, scores (descending), class_ids, class_probs, masks, cells_found int32 ``[1]``,
            which also counts cells beyond the detector's cap, then boxes and masks again under
            separate names.
        """
        order = torch.sort(qualities, descending=True).indices
        shown = prompt_masks.flatten(1).to(torch.int32).amax(dim=1) >= INSIDE
        order = order.index_select(0, torch.nonzero(shown.index_select(0, order))[:, 0])
        kept = suppress_by_masks(
            prompt_boxes.index_select(0, order),
            prompt_masks.index_select(0, order),
            overlap_threshold,
        )
        order = order.index_select(0, kept)
        boxes, masks = prompt_boxes.index_select(0, order), prompt_masks.index_select(0, order)
        prompts, found = (torch._shape_as_tensor(each)[0] for each in (qualities, order))
        beyond = torch.clamp(cells_detected - prompts.to(torch.int32), min=0)
        return (
            boxes,
            qualities.index_select(0, order),
            detected_ids.index_select(0, order),
            detected_probs.index_select(0, order),
            masks,
            beyond + found.to(torch.int32),
            boxes.clone(),
            masks.clone(),
        )


def attend_both_ways(
    transformer: TwoWayTransformer, image: Tensor, positions: Tensor, tokens: Tensor, filler: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute what `TwoWayTransformer.forward` gives for every prompt alone, without its filler.

    The arithmetic is that of `segment_anything.modeling.transformer` (Kirillov et al. 2023,
    appendix A) with its own weights; two things are added. Image tokens with a leading dim of 1
    keep it until a prompt has changed them, so that keys, values and queries of the first layer's
    image side are computed once for all prompts. And no token attends to tokens that only fill up
    a row.

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


def _inmost(around: Tensor, tiles: Tensor) -> Tensor:
    """Index of the tile of ``[T, 4]`` that holds each hull ``[N, 4]`` best: int64 ``[N]``.

    This is the tile in which the hull is farthest from the nearest inner edge. The frame's edges do
    not count.
    """
    edges = torch.cat([tiles[:, :2].amin(dim=0), tiles[:, 2:].amax(dim=0)])
    inner = tiles != edges  # T, 4
    inside = torch.cat(
        [around[:, None, :2] - tiles[:, :2], tiles[:, 2:] - around[:, None, 2:]], dim=2
    )
    margins = torch.where(inner, inside, torch.inf).amin(dim=2)
    return margins.max(dim=1).indices


def _prompt_boxes(points: Tensor, labels: Tensor) -> Tensor:
    """Box ``[N, 4]`` of every prompt: its own, the hull of its foreground points, or zeros."""
    corners = labels >= _BOX_START
    has_box = corners.any(dim=1, keepdim=True)
    counted = ((has_box & corners) | (~has_box & (labels == _FOREGROUND)))[:, :, None]
    # An extra column, so that a prompt without any point has a hull as well.
    far = torch.zeros((torch._shape_as_tensor(points)[0], 1, 2)) + torch.inf  # type: ignore[arg-type]
    low = torch.cat([torch.where(counted, points, torch.inf), far], dim=1).amin(dim=1)
    high = torch.cat([torch.where(counted, points, -torch.inf), -far], dim=1).amax(dim=1)
    hull = torch.cat([low, high], dim=1)
    return torch.where(torch.isinf(hull), torch.zeros_like(hull), hull)
