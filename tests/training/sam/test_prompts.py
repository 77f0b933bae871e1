"""Prompts of SAM: their embedding, and how training draws them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from segment_anything.utils.onnx import SamOnnxModel

from cytoserve.contract import POINT_LABELS
from cytoserve.patches import paint_labels
from training.sam.network import build_sam
from training.sam.prompts import (
    MAX_POINTS,
    box_prompts,
    draw_coarse_masks,
    draw_points,
    embed_prompts,
    jitter_boxes,
    mask_logits,
    paste_coarse_masks,
    point_prompts,
)


def disc(side: int, x: float, y: float, radius: float) -> torch.Tensor:
    centres = torch.arange(side) + 0.5
    return ((centres - x) ** 2 + (centres[:, None] - y) ** 2 < radius**2).float()


def test_prompts_are_embedded_as_sam_does() -> None:
    sam = build_sam("tiny")
    encoder = sam.prompt_encoder
    boxes = torch.tensor([[10.0, 20.0, 60.0, 50.0], [0.0, 0.0, 511.0, 511.0]])
    points, labels = torch.rand(2, 3, 2) * 500, torch.tensor([[1, 0, 1], [0, 1, 1]])
    masks = torch.randn(2, 1, *encoder.mask_input_size)
    with torch.no_grad():
        for found, expected in (
            (embed_prompts(encoder, box_prompts(boxes)), encoder(None, boxes, None)),
            (
                embed_prompts(encoder, point_prompts(points, labels)),
                encoder((points, labels), None, None),
            ),
            (
                embed_prompts(encoder, box_prompts(boxes)._replace(masks=masks)),
                encoder(None, boxes, masks),
            ),
        ):
            for one, other in zip(found, expected, strict=True):
                assert torch.allclose(one, other, atol=1e-5)
        both = box_prompts(boxes)._replace(
            points=torch.cat([points, boxes.reshape(-1, 2, 2)], dim=1),
            labels=torch.cat([labels, torch.tensor([[2, 3], [2, 3]])], dim=1),
        )
        tokens, _ = embed_prompts(encoder, both)
        onnx = SamOnnxModel(sam, return_single_mask=True)
        assert torch.allclose(tokens, onnx._embed_points(both.points, both.labels), atol=1e-5)


def test_mask_logits_are_finite_and_keep_the_order() -> None:
    probabilities = torch.linspace(0, 1, 256)
    logits = mask_logits(probabilities)
    assert logits.isfinite().all()
    assert (logits.diff() > 0).all()
    assert torch.allclose(logits.sigmoid(), probabilities, atol=0.002)


def test_coarse_masks_lie_as_patches_lie_on_a_frame() -> None:
    side, boxes = 40, torch.tensor([[3.3, 5.8, 21.6, 30.1], [-6.0, 20.0, 12.0, 47.0]])
    patches = torch.stack([disc(56, 30, 25, 20), disc(56, 28, 28, 27)]).mul(255).to(torch.uint8)
    pasted = paste_coarse_masks(patches, boxes, side)
    assert pasted.shape == (2, 1, side, side)
    for n in range(2):
        one = slice(n, n + 1)
        painted = paint_labels(boxes[one].numpy(), patches[one].numpy(), (side, side))
        differ = (pasted[n, 0].sigmoid().numpy() >= 0.5) != (painted > 0)
        assert differ.sum() <= 1  # a value of 127.5 but for rounding
        assert painted.any()


@pytest.mark.parametrize(
    "boxes",
    [
        pytest.param(torch.zeros(0, 4), id="none"),
        pytest.param(torch.tensor([[5.0, 5.0, 5.0, 9.0]]), id="no area"),
        pytest.param(torch.tensor([[50.0, 50.0, 60.0, 60.0]]), id="outside"),
    ],
)
def test_coarse_masks_that_cover_nothing(boxes: torch.Tensor) -> None:
    patches = torch.full((len(boxes), 56, 56), 255, dtype=torch.uint8)
    pasted = paste_coarse_masks(patches, boxes, 16)
    assert pasted.shape == (len(boxes), 1, 16, 16)
    assert torch.equal(pasted, mask_logits(torch.zeros(len(boxes), 1, 16, 16)))


def test_boxes_are_jittered_as_the_paper_says() -> None:
    boxes = torch.tensor([[100.0, 200.0, 160.0, 240.0]]).repeat(4000, 1)
    generator = torch.Generator().manual_seed(0)
    moved = jitter_boxes(boxes, (1024, 1024), generator) - boxes
    spread = moved.std(dim=0)
    assert spread.tolist() == pytest.approx([6, 4, 6, 4], rel=0.08)
    assert moved.mean(dim=0).abs().max() < 0.5
    wide = torch.tensor([[0.0, 0.0, 1024.0, 1024.0]]).repeat(400, 1)
    moved = jitter_boxes(wide, (1024, 1024), generator) - wide
    assert moved.abs().max() == pytest.approx(20)
    assert (jitter_boxes(boxes, (1024, 1024), generator, spread=0) == boxes).all()


def test_jittered_boxes_stay_boxes_in_the_image() -> None:
    boxes = torch.tensor([[0.0, 0.0, 0.4, 30.0], [90.0, 20.0, 100.0, 50.0], [4.0, 4.0, 6.0, 6.0]])
    boxes = boxes.repeat(200, 1)
    moved = jitter_boxes(boxes, (50, 100), torch.Generator().manual_seed(0), spread=0.5, reach=0.5)
    smallest = (boxes[:, 2:] - boxes[:, :2]).clamp(max=1)
    assert (moved[:, 2:] - moved[:, :2] >= smallest - 1e-4).all()
    assert moved.min() >= 0
    assert (moved <= torch.tensor([100, 50, 100, 50])).all()


def test_points_lie_inside_and_outside() -> None:
    truths = torch.stack([disc(64, 20, 30, 6), disc(64, 50, 10, 3)])
    boxes = torch.tensor([[14.0, 24.0, 26.0, 36.0], [47.0, 7.0, 53.0, 13.0]])
    counts = set()
    for seed in range(30):
        points, labels = draw_points(truths, boxes, 4.0, torch.Generator().manual_seed(seed))
        places = (points / 4).long()
        for n in range(2):
            values = truths[n, places[n, :, 1], places[n, :, 0]]
            assert torch.equal(values, (labels[n] == POINT_LABELS["foreground"]).float())
            low, high = boxes[n, :2], boxes[n, 2:]
            reach = 0.25 * (high - low) + 1
            assert ((points[n] / 4 > low - reach) & (points[n] / 4 < high + reach)).all()
        counts.add(
            tuple((labels[0] == POINT_LABELS[k]).sum().item() for k in ("foreground", "background"))
        )
    assert counts >= {(1, 0), (MAX_POINTS, MAX_POINTS)}


def test_a_cell_that_fills_the_image_has_no_background_point() -> None:
    truths, boxes = torch.ones(1, 16, 16), torch.tensor([[0.0, 0.0, 16.0, 16.0]])
    drawn = [
        set(draw_points(truths, boxes, 4.0, torch.Generator().manual_seed(seed))[1][0].tolist())
        for seed in range(20)
    ]
    assert set().union(*drawn) == {POINT_LABELS["foreground"], POINT_LABELS["none"]}


def test_drawn_coarse_masks_resemble_the_cell() -> None:
    truths = torch.stack([disc(64, 20, 30, 9), disc(64, 45, 20, 6)])
    boxes = torch.tensor([[11.0, 21.0, 29.0, 39.0], [38.0, 15.0, 51.0, 27.0]])
    ious = []
    for seed in range(20):
        logits = draw_coarse_masks(truths, boxes, torch.Generator().manual_seed(seed))
        assert logits.shape == (2, 1, 64, 64)
        found = (logits[:, 0] > 0).numpy()
        truth = truths.numpy() > 0.5
        ious.append((found & truth).sum((1, 2)) / (found | truth).sum((1, 2)))
    assert np.min(ious) > 0.4
    assert np.max(ious) > 0.9
    assert np.std(ious) > 0.03
