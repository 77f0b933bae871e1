"""Frames as SAM is trained on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from segment_anything.utils.transforms import ResizeLongestSide

from training.datasets.annotated import AnnotatedCell, AnnotatedDataset
from training.preprocessing.normalise import PercentileLevels, to_8_bit
from training.run.lightning import Draw
from training.sam.frames import SamFrame, Sides, prepare_frames
from training.sam.samples import TrainingSamples
from training.sam.settings import PRESETS, SamSettings

MakeDataset = Callable[..., AnnotatedDataset]

SIDES = Sides(image=64, grid=32)
BOXES = [(5, 10, 21, 30), (50, 60, 20, 13), (90, 3, 7, 9)]


def one_frame(make_dataset: MakeDataset, **options: object) -> SamFrame:
    return prepare_frames(make_dataset(BOXES, **options), SIDES)[0]


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((100, 80), id="grey"),
        pytest.param((100, 80, 3), id="RGB"),
        pytest.param((99, 163), id="wide, odd"),
    ],
)
def test_an_image_is_normalised_and_resized_as_sam_does(
    make_dataset: MakeDataset, shape: tuple[int, ...]
) -> None:
    dataset = make_dataset(BOXES, shape=shape)
    image = dataset.frames[0].read()
    camera = torch.from_numpy(image.astype(np.int32).reshape(*shape[:2], -1))
    normalised = to_8_bit(camera.float(), PercentileLevels()(camera)).expand(-1, -1, 3).numpy()
    expected = ResizeLongestSide(64).apply_image(normalised)
    frame = prepare_frames(dataset, SIDES)[0]
    assert frame.rgb().dtype == torch.uint8
    assert torch.equal(frame.rgb().permute(1, 2, 0), torch.from_numpy(expected))
    assert max(frame.pixels.shape[1:]) == 64


def test_boxes_are_scaled_as_sam_does(make_dataset: MakeDataset) -> None:
    frame = one_frame(make_dataset, shape=(99, 163))
    boxes = np.array([cell.box for cell in frame.cells])
    expected = ResizeLongestSide(64).apply_boxes(boxes, (99, 163))
    assert np.allclose(frame.boxes().numpy(), expected, atol=1e-5)


def test_truths_are_shares_of_the_grid(make_dataset: MakeDataset) -> None:
    frame = one_frame(make_dataset, shape=(99, 163))
    truths = frame.truths(SIDES)
    assert truths.shape == (3, 32, 32)
    for truth, (y, x, height, width) in zip(truths, BOXES, strict=True):
        scale_x, scale_y = (scale / 2 for scale in frame.scale)
        edges = torch.arange(32.0)
        rows = torch.clamp(edges + 1, max=(y + height) * scale_y) - edges.clamp(min=y * scale_y)
        columns = torch.clamp(edges + 1, max=(x + width) * scale_x) - edges.clamp(min=x * scale_x)
        expected = rows.clamp(min=0)[:, None] * columns.clamp(min=0)
        assert torch.allclose(truth, expected, atol=1e-5)


def test_turned_frames_keep_image_boxes_and_truths_together(make_dataset: MakeDataset) -> None:
    frame = one_frame(make_dataset, shape=(96, 160))
    uneven = np.triu(np.ones((12, 25), bool))
    frame = replace(frame, cells=(*frame.cells, AnnotatedCell.cut(uneven, 0, x=100, y=30)))
    for turned in (frame, frame.mirrored(), frame.transposed(), frame.transposed().mirrored()):
        truths = turned.truths(SIDES)
        grey = turned.pixels[0].float()
        for (x0, y0, x1, y1), truth in zip(turned.boxes() / 2, truths, strict=True):
            rows, columns = truth.amax(1).nonzero()[:, 0], truth.amax(0).nonzero()[:, 0]
            found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            assert [abs(a - float(b)) < 1 for a, b in zip((x0, y0, x1, y1), found, strict=True)]
        bright = torch.nn.functional.avg_pool2d(grey[None], 2)[0]
        inside = truths[:3].amax(0)[: bright.shape[0], : bright.shape[1]]
        assert bright[inside > 0.99].mean() > bright[inside == 0].mean() + 80
    square = frame.transposed().mirrored()
    assert torch.equal(square.pixels, frame.pixels.rot90(-1, (1, 2)))
    assert square.size == (160, 96)


def draws(make_dataset: MakeDataset, settings: SamSettings) -> list[object]:
    dataset = TrainingSamples([one_frame(make_dataset)], SIDES, settings)
    return [dataset[Draw(0, seed, quarter=False)] for seed in range(24)]


def test_prompts_are_of_the_kinds_that_are_asked_for(make_dataset: MakeDataset) -> None:
    plain = draws(make_dataset, SamSettings(prompts_per_frame=2))
    assert all(sample.prompts.labels.tolist() == [[2, 3]] * 2 for sample in plain)
    assert all(sample.prompts.masks is None for sample in plain)
    assert all(sample.truths.shape == (2, 32, 32) for sample in plain)
    assert len({tuple(s.prompts.points.flatten().tolist()) for s in plain}) == 24
    mixed = draws(make_dataset, SamSettings(points_alone=0.4, points_added=0.5, coarse_masks=0.5))
    kinds = {
        ({2, 3} <= set(s.prompts.labels[0].tolist()), 1 in s.prompts.labels[0].tolist())
        for s in mixed
    }
    assert kinds == {(True, False), (True, True), (False, True)}
    assert {s.prompts.masks is None for s in mixed} == {True, False}
    for sample in mixed:
        last = sample.prompts.labels[0, -1]
        assert last == (3 if 3 in sample.prompts.labels[0] else -1)


def test_a_draw_is_the_same_whenever_it_is_made(make_dataset: MakeDataset) -> None:
    settings = PRESETS["demo"]
    for one, other in zip(
        draws(make_dataset, settings), draws(make_dataset, settings), strict=True
    ):
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.prompts.points, other.prompts.points)
        assert torch.equal(one.truths, other.truths)


def test_frames_are_turned_where_it_is_asked_for(make_dataset: MakeDataset) -> None:
    def ways(**given: object) -> int:
        return len({s.image.numpy().tobytes() for s in draws(make_dataset, SamSettings(**given))})

    assert ways() == 1
    assert ways(flip_probability=0.5) == 4
    assert ways(rotate_90=True) == 4
    assert ways(flip_probability=0.5, rotate_90=True) == 8


def test_cells_to_validate_on_are_spread_over_the_list(make_dataset: MakeDataset) -> None:
    frame = one_frame(make_dataset)
    for prompts, expected in ((None, BOXES), (9, BOXES), (2, BOXES[::2]), (1, BOXES[:1])):
        cells = frame.spread(prompts).cells
        assert [(c.y, c.x) for c in cells] == [box[:2] for box in expected]


def test_a_frame_of_one_value_is_refused(make_dataset: MakeDataset) -> None:
    dataset = make_dataset([(0, 0, 100, 100)])
    frame = dataset.frames[0]
    assert cv2.imwrite(str(frame.path), np.full((100, 100), 7, np.uint8))
    with pytest.raises(ValueError, match="all pixels are 7, yet 1 cells are annotated"):
        prepare_frames(dataset, SIDES)


def test_a_frame_of_which_nothing_is_left_is_refused(make_dataset: MakeDataset) -> None:
    with pytest.raises(ValueError, match="nothing is left of 300x2"):
        prepare_frames(make_dataset([(0, 5, 1, 20)], shape=(2, 300)), SIDES)
