"""Prompts of SAM: how boxes, points and coarse masks are encoded, decoded, and drawn for training.

Boxes are (x0, y0, x1, y1) and points (x, y), in pixels of the image that the encoder sees unless
stated otherwise. Coarse masks lie on the grid of SAM's low-resolution masks, whose side is 4 times
that of the embedding.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from segment_anything.modeling import PromptEncoder, Sam
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from cytoserve.contract import MASK_SIZE, POINT_LABELS
from training.sam.settings import BOX_SPREAD

HALF_LEVEL = 0.5 / 255
"""Least distance of probabilities from 0 and 1, half an 8-bit step, so that logits stay finite."""

BOX_REACH = 20 / 1024
"""Largest distance of a drawn edge from the true one, in sides of SAM's input image (Kirillov et
al. 2023, A)."""

MAX_POINTS = 3
"""Maximum number of foreground points, and of background points, in a drawn prompt."""

_RING = 0.25  # background points lie in the box extended on every side by this share


class Prompts(NamedTuple):
    """One prompt for each of N cells, all of one kind."""

    points: Tensor
    """Points float32 ``[N, P, 2]``; the two points of a box are its corners."""
    labels: Tensor
    """Labels int64 ``[N, P]``, values of `cytoserve.contract.POINT_LABELS`."""
    masks: Tensor | None
    """Logits float32 ``[N, 1, G, G]`` of coarse masks; None if there are none."""


def mask_logits(probabilities: Tensor) -> Tensor:
    """Convert probabilities 0..1 of any shape to finite logits, as SAM expects coarse masks."""
    return torch.logit(torch.clamp(probabilities.float(), HALF_LEVEL, 1 - HALF_LEVEL))


def paste_coarse_masks(patches: Tensor, boxes: Tensor, side: int) -> Tensor:
    """Lay the patches of coarse masks on SAM's low-resolution grid.

    This matches `cytoserve.patches`, which lays them on a frame: a grid pixel whose centre is in
    the box samples the patch bilinearly, with clamped edges. Outside the box, and if it has no
    area, the probability is 0. It is written as two matrix products, so that a graph of it accepts
    any number of patches.

    Args:
        patches: uint8 ``[C, M, M]``, the probability 0..255 inside the box.
        boxes: ``[C, 4]`` in pixels of the grid.
        side: side G of the grid.

    Returns:
        Logits float32 ``[C, 1, G, G]``, see :func:`mask_logits`.
    """
    size = patches.shape[-1]
    rows = _sampling(boxes[:, 1], boxes[:, 3], side, size)
    columns = _sampling(boxes[:, 0], boxes[:, 2], side, size)
    pasted = rows @ (patches.float() / 255) @ columns.transpose(1, 2)
    return mask_logits(pasted).unsqueeze(1)


def _sampling(low: Tensor, high: Tensor, side: int, size: int) -> Tensor:
    """Weights ``[C, G, M]`` of a patch's rows (or columns) in every grid row (or column)."""
    centres = torch.arange(side, device=low.device) + 0.5
    low, high = low[:, None].float(), high[:, None].float()
    inside = (centres >= low) & (centres < high)
    places = (centres - low) * (size / torch.clamp(high - low, min=1e-6)) - 0.5
    distances = torch.clamp(places, 0, size - 1)[:, :, None] - torch.arange(size, device=low.device)
    return torch.clamp(1 - torch.abs(distances), min=0.0) * inside[:, :, None]


def embed_prompts(encoder: PromptEncoder, prompts: Prompts) -> tuple[Tensor, Tensor]:
    """Encode prompts as SAM's tokens ``[N, P, E]`` and its dense embedding ``[N, E, g, g]``.

    This follows `segment_anything.utils.onnx.SamOnnxModel`, which takes boxes and points in one
    tensor. `PromptEncoder.forward` gives the same for boxes, and for points with one point ``none``
    added.
    """
    count = len(prompts.points)
    coordinates = prompts.points + 0.5  # to the centre of a pixel
    tokens = encoder.pe_layer.forward_with_coords(coordinates, encoder.input_image_size)
    labels = prompts.labels[:, :, None]
    tokens = tokens * (labels != POINT_LABELS["none"])
    tokens = tokens + encoder.not_a_point_embed.weight * (labels == POINT_LABELS["none"])
    for label, embedding in enumerate(encoder.point_embeddings):
        tokens = tokens + embedding.weight * (labels == label)
    if prompts.masks is not None:
        return tokens, encoder.mask_downscaling(prompts.masks)
    dense = encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
    return tokens, dense.expand(count, -1, *encoder.image_embedding_size)


def box_prompts(boxes: Tensor) -> Prompts:
    """Make prompts from boxes ``[N, 4]``."""
    labels = torch.tensor(
        [POINT_LABELS["box_start"], POINT_LABELS["box_end"]], device=boxes.device
    ).expand(len(boxes), 2)
    return Prompts(boxes.reshape(-1, 2, 2).float(), labels, None)


def point_prompts(points: Tensor, labels: Tensor) -> Prompts:
    """Make prompts from points ``[N, P, 2]`` without a box, with the final ``none`` SAM expects."""
    count = len(points)
    none = torch.full((count, 1), POINT_LABELS["none"], device=points.device)
    nowhere = torch.zeros((count, 1, 2), device=points.device)
    return Prompts(torch.cat([points, nowhere], dim=1), torch.cat([labels, none], dim=1), None)


def jitter_boxes(
    boxes: Tensor,
    size: tuple[float, float],
    generator: torch.Generator,
    *,
    spread: float = BOX_SPREAD,
    reach: float = BOX_REACH,
) -> Tensor:
    """Move every edge of boxes at random, as a detector or a person might draw them.

    As in Kirillov et al. 2023, appendix A: normal noise proportional to the box's side, truncated.

    Args:
        boxes: ``[N, 4]``.
        size: (height, width) of the image; edges stay inside it.
        generator: source of the random numbers.
        spread: standard deviation in sides of the box; 0 leaves the boxes.
        reach: largest distance that an edge moves, in longer sides of the image.

    Returns:
        float32 ``[N, 4]``; never inverted, and at least one pixel wide, or as wide as a smaller
        true side.
    """
    height, width = size
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    farthest = reach * max(height, width)
    noise = torch.randn(boxes.shape, generator=generator) * spread * sides
    # An edge stays on its own side of the true centre.
    limit = torch.clamp((sides - torch.clamp(sides, max=1.0)) / 2, max=farthest)
    outwards = torch.tensor([-1.0, -1.0, 1.0, 1.0])
    moved = torch.clamp(noise, min=-limit, max=torch.full_like(sides, farthest))
    ends = torch.tensor([width, height, width, height])
    return torch.clamp(boxes + outwards * moved, torch.zeros(4), ends).float()


def draw_points(
    truths: Tensor, boxes: Tensor, scale: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw clicks: 1 to ``MAX_POINTS`` foreground points in each cell, some background outside.

    The numbers of points are the same for all cells of one draw. Background points lie in and near
    the box, where a person would correct a mask. If a cell leaves no space there, its points are
    ``none``.

    Args:
        truths: ``[N, G, G]``, share of every grid pixel that the cell covers, 0..1.
        boxes: ``[N, 4]`` in pixels of the grid.
        scale: image pixels per grid pixel.
        generator: source of the random numbers.

    Returns:
        Points float32 ``[N, P, 2]`` in pixels of the image, and their labels int64 ``[N, P]``.
    """
    inside = int(torch.randint(1, MAX_POINTS + 1, (), generator=generator))
    outside = int(torch.randint(0, MAX_POINTS + 1, (), generator=generator))
    side = truths.shape[-1]
    centres = torch.arange(side) + 0.5
    low, high = boxes[:, :2], boxes[:, 2:]
    margin = _RING * (high - low) + 1
    near = [
        (centres > (low - margin)[:, axis, None]) & (centres < (high + margin)[:, axis, None])
        for axis in (0, 1)
    ]
    ring = near[1][:, :, None] & near[0][:, None, :]
    points, labels = [], []
    for count, weights, label in (
        (inside, truths, POINT_LABELS["foreground"]),
        (outside, (ring & (truths == 0)).float(), POINT_LABELS["background"]),
    ):
        if not count:
            continue
        flat = weights.flatten(1)
        empty = flat.sum(1) == 0
        flat = torch.where(empty[:, None], torch.ones_like(flat), flat)
        drawn = torch.multinomial(flat, count, replacement=True, generator=generator)
        points.append((torch.stack([drawn % side, drawn // side], dim=2) + 0.5) * scale)
        given = torch.full_like(drawn, label)
        labels.append(torch.where(empty[:, None], POINT_LABELS["none"], given))
    return torch.cat(points, dim=1), torch.cat(labels, dim=1)


def draw_coarse_masks(truths: Tensor, boxes: Tensor, generator: torch.Generator) -> Tensor:
    """Draw coarse masks as another network might predict them: blurred, too small or too large.

    Args:
        truths: ``[N, G, G]``, share of every grid pixel that the cell covers, 0..1.
        boxes: ``[N, 4]`` in pixels of the grid, jittered.
        generator: source of the random numbers.

    Returns:
        Logits float32 ``[N, 1, G, G]``, made from patches of ``MASK_SIZE``, as in serving.
    """
    steps = (torch.arange(MASK_SIZE) + 0.5) / MASK_SIZE
    places = boxes[:, None, :2] + steps[:, None] * (boxes[:, 2:] - boxes[:, :2])[:, None]
    places = 2 * places / truths.shape[-1] - 1  # N, M, (x, y), as `grid_sample` counts them
    grid = torch.stack(
        [
            places[:, None, :, 0].expand(-1, MASK_SIZE, -1),
            places[:, :, None, 1].expand(-1, -1, MASK_SIZE),
        ],
        dim=3,
    )
    patches = torch.nn.functional.grid_sample(truths[:, None].float(), grid, align_corners=False)
    sigma, shift = torch.rand(2, generator=generator).tolist()
    blurred = transforms.gaussian_blur(patches, [25, 25], [0.5 + 5.5 * sigma])
    # A lower or higher threshold makes the mask larger or smaller; its edge stays soft.
    soft = torch.sigmoid((blurred[:, 0] - (0.3 + 0.4 * shift)) * 12)
    return paste_coarse_masks(torch.round(soft * 255).to(torch.uint8), boxes, truths.shape[-1])


def decode(sam: Sam, embedding: Tensor, prompts: Prompts) -> tuple[Tensor, Tensor]:
    """Predict SAM's three masks for every prompt, and its estimates of their IoUs.

    Args:
        sam: the network; its encoder is not run.
        embedding: embedding ``[1, E, g, g]`` of one image.
        prompts: prompts for N cells in the image.

    Returns:
        Logits float32 ``[N, 3, G, G]`` and qualities float32 ``[N, 3]``.
    """
    tokens, dense = embed_prompts(sam.prompt_encoder, prompts)
    logits, qualities = sam.mask_decoder(
        image_embeddings=embedding,
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=tokens,
        dense_prompt_embeddings=dense,
        multimask_output=True,
    )
    return logits.float(), qualities.float()
