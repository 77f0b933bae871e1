"""What a Mask R-CNN trains on: cells stay on their pixels, however an image is cut and turned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from training.datasets.annotated import AnnotatedCell, AnnotatedDataset
from training.maskrcnn.frames import (
    InstanceImage,
    TrainingInstances,
    ValidationInstances,
    collate,
    prepare_instances,
    study_scale,
)
from training.maskrcnn.settings import MaskrcnnSettings
from training.preprocessing.normalise import PercentileLevels, to_8_bit
from training.run.lightning import Draw

MakeDataset = Callable[..., AnnotatedDataset]
SMALL = MaskrcnnSettings(min_size=100, max_size=200)
NEVER = {
    "horizontal_flip_probability": 0.0,
    "vertical_flip_probability": 0.0,
    "rotate_90_probability": 0.0,
}
Plane = npt.NDArray[np.float32]


def marked_image() -> InstanceImage:
    """Two L-shaped cells, the first red, the second green; nothing else has a colour."""
    pixels = torch.zeros(3, 30, 40, dtype=torch.uint8)
    shape = np.zeros((6, 9), bool)
    shape[:, :3] = shape[4:] = True
    cells = []
    for index, (x, y) in enumerate([(5, 3), (28, 20)]):
        pixels[index, y : y + 6, x : x + 9] = torch.from_numpy(shape) * 200
        cells.append(AnnotatedCell(x, y, shape, index))
    return InstanceImage("marked", pixels, tuple(cells))


def assert_cells_cover_their_colours(image: InstanceImage) -> None:
    pixels, target = image.example()
    for index, cell in enumerate(image.cells):
        plane = target["masks"][index].bool()
        assert torch.equal(plane, pixels[cell.class_id] > 0)
        rows, columns = plane.nonzero().T
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert target["boxes"][index].tolist() == [float(side) for side in box]
        assert target["labels"][index] == cell.class_id + 1


@pytest.mark.parametrize(
    ("change", "size"),
    [
        pytest.param(lambda image: image, (30, 40), id="as it is"),
        pytest.param(lambda image: image.mirrored(), (30, 40), id="mirrored"),
        pytest.param(lambda image: image.rotated(1), (40, 30), id="90 degrees"),
        pytest.param(lambda image: image.rotated(2), (30, 40), id="180 degrees"),
        pytest.param(lambda image: image.rotated(3), (40, 30), id="270 degrees"),
        pytest.param(
            lambda image: image.window(5, 6, 20, 30, min_visible=0.1), (20, 30), id="window"
        ),
    ],
)
def test_cells_stay_on_their_pixels(
    change: Callable[[InstanceImage], InstanceImage], size: tuple[int, int]
) -> None:
    image = change(marked_image())
    assert image.size == size
    assert len(image.cells) == 2
    assert_cells_cover_their_colours(image)


def test_rotation_is_counter_clockwise() -> None:
    pixels = torch.arange(6, dtype=torch.uint8).reshape(1, 2, 3).expand(3, 2, 3)
    rotated = InstanceImage("numbers", pixels, ()).rotated(1)
    assert rotated.pixels[0].tolist() == [[2, 5], [1, 4], [0, 3]]


@pytest.mark.parametrize(
    ("min_visible", "cells"), [(0.2, 2), (0.5, 1)], ids=["a part is enough", "half at least"]
)
def test_a_cell_cut_by_the_edge_is_kept_where_enough_is_inside(
    min_visible: float, cells: int
) -> None:
    # 10 of the first cell's 30 pixels are in the window: its last two rows from x = 9.
    window = marked_image().window(0, 9, 30, 31, min_visible=min_visible)
    assert len(window.cells) == cells
    assert_cells_cover_their_colours(window)


def test_an_image_without_cells_is_an_example() -> None:
    image, target = marked_image().window(10, 0, 5, 5, min_visible=0.5).example()
    assert image.shape == (3, 5, 5)
    assert {name: tuple(t.shape) for name, t in target.items()} == {
        "boxes": (0, 4),
        "labels": (0,),
        "masks": (0, 5, 5),
    }
    assert target["labels"].dtype == torch.int64


@pytest.mark.parametrize("window", [None, 64])
def test_draws_repeat_and_differ(make_dataset: MakeDataset, window: int | None) -> None:
    dataset = make_dataset([(10, 20, 30, 40)], shape=(100, 140))
    settings = SMALL.model_copy(update={"window": window})
    examples = TrainingInstances(prepare_instances(dataset, 1.0), settings)
    seen = set()
    for seed in range(12):
        image, target = examples[Draw(0, seed, False)]
        again, _ = examples[Draw(0, seed, False)]
        assert torch.equal(image, again)
        assert set(image.shape[1:]) <= ({window} if window else {100, 140})
        for mask in target["masks"].bool():
            assert image[0][mask].min() > image[0][~mask].max()
        seen.add(image.numpy().tobytes())
    assert len(seen) > 4


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        pytest.param("", [lambda plane: plane], id="never"),
        pytest.param("horizontal_flip_probability", [np.fliplr], id="horizontal flip"),
        pytest.param("vertical_flip_probability", [np.flipud], id="vertical flip"),
        pytest.param(
            "rotate_90_probability",
            [np.rot90, lambda plane: np.rot90(plane, 2), lambda plane: np.rot90(plane, 3)],
            id="rotation",
        ),
    ],
)
def test_each_change_is_what_it_is_called(
    name: str, changes: list[Callable[[Plane], Plane]]
) -> None:
    given = {**NEVER, **({name: 1.0} if name else {})}
    image = marked_image()
    examples = TrainingInstances((image,), SMALL.model_copy(update=given))
    seen = {examples[Draw(0, seed, False)][0][0].numpy().tobytes() for seed in range(20)}
    plane = (image.pixels[0].float() / 255).numpy()
    assert seen == {np.ascontiguousarray(change(plane)).tobytes() for change in changes}


def test_it_is_validated_on_windows_that_cover_a_frame(make_dataset: MakeDataset) -> None:
    images = prepare_instances(make_dataset([(10, 20, 30, 40)], [], shape=(100, 140)), 1.0)
    windows = ValidationInstances(images, SMALL.model_copy(update={"window": 64}))
    assert [window.pixels.shape for window in windows.images] == [(3, 64, 64)] * 12
    first = [image for image in windows.images if image.name == "frame_0"]
    assert len(first) == 6
    assert torch.equal(first[0].pixels, images[0].pixels[:, :64, :64])
    assert torch.equal(first[-1].pixels, images[0].pixels[:, 36:, 76:])
    whole = ValidationInstances(images, SMALL)
    assert [image.size for image in whole.images] == [(100, 140)] * 2


@pytest.mark.parametrize(
    ("size", "scale"),
    [
        pytest.param((50, 60), 2.0, id="short side"),
        pytest.param((1000, 100), 0.2, id="long side"),
    ],
)
def test_the_scale_is_that_of_torchvisions_transform(
    make_dataset: MakeDataset, size: tuple[int, int], scale: float
) -> None:
    dataset = make_dataset([], shape=size)
    assert study_scale(dataset, SMALL) == scale
    transform = GeneralizedRCNNTransform(SMALL.min_size, SMALL.max_size, [0.0] * 3, [1.0] * 3)
    images, _ = transform([torch.zeros(3, *size)])
    assert images.image_sizes == [(round(size[0] * scale), round(size[1] * scale))]


def test_the_median_frame_gives_the_scale_of_all(make_dataset: MakeDataset) -> None:
    frames = [
        replace(frame, height=side, width=side, scale=scale)
        for (side, scale), frame in zip(
            [(50, 1.0), (100, 2.0), (800, 1.0)], make_dataset([], [], []).frames, strict=True
        )
    ]
    assert study_scale(AnnotatedDataset(("cell",), tuple(frames)), SMALL) == 0.5


@pytest.mark.parametrize(
    ("network_scale", "common", "box"),
    [
        pytest.param(1.0, 1.0, (20, 10, 60, 40), id="as it is"),
        pytest.param(0.5, 1.0, (10, 5, 30, 20), id="reduced"),
        pytest.param(0.5, 4.0, (40, 20, 120, 80), id="of another scale"),
    ],
)
def test_cells_are_scaled_with_their_frame(
    make_dataset: MakeDataset, network_scale: float, common: float, box: tuple[float, ...]
) -> None:
    dataset = make_dataset([(10, 20, 30, 40)], shape=(100, 140))
    frames = (replace(dataset.frames[0], scale=common),)
    (image,) = prepare_instances(replace(dataset, frames=frames), network_scale)
    assert image.size == (100 * network_scale * common, 140 * network_scale * common)
    assert [cell.box for cell in image.cells] == [box]
    mask = image.example()[1]["masks"][0].bool()
    assert image.pixels[0][mask].float().mean() > image.pixels[0][~mask].float().mean() + 100


def test_a_cell_that_comes_to_nothing_is_left_out(make_dataset: MakeDataset) -> None:
    dataset = make_dataset([(10, 20, 1, 1), (50, 50, 30, 30)])
    (image,) = prepare_instances(dataset, 0.1)
    assert [cell.box for cell in image.cells] == [(5, 5, 8, 8)]


def test_a_window_is_no_larger_than_its_frame(make_dataset: MakeDataset) -> None:
    images = prepare_instances(make_dataset([(10, 10, 20, 20)], shape=(40, 400)), 1.0)
    for window, size in ((64, (40, 64)), (None, (40, 200))):  # 200: max_size
        settings = MaskrcnnSettings(
            min_size=100, max_size=200, window=window, rotate_90_probability=0
        )
        image, _ = TrainingInstances(images, settings)[Draw(0, 0, False)]
        assert image.shape == (3, *size)


def test_some_examples_have_no_cell(make_dataset: MakeDataset) -> None:
    dataset = make_dataset([(10, 10, 30, 30)], [(0, 0, 100, 100)])
    given = {**NEVER, "background_share": 1.0, "blank_share": 1.0, "samples_per_frame": 2}
    images = prepare_instances(dataset, 1.0)
    examples = TrainingInstances(images, SMALL.model_copy(update={"window": 64, **given}))
    assert examples.empty == 8
    shapes, background = set(), 0
    for seed in range(40):
        image, target = examples[Draw(len(examples), seed, False)]
        assert len(target["boxes"]) == 0
        shapes.add(tuple(image.shape[1:]))
        pixels = (image * 255).round().to(torch.uint8)
        windows = images[0].pixels.unfold(1, image.shape[1], 1).unfold(2, image.shape[2], 1)
        same = (windows == pixels[:, None, None]).all(dim=(-2, -1)).all(dim=0)
        if same.any():
            y, x = same.nonzero()[0].tolist()
            assert not (x < 40 and y < 40 and x + image.shape[2] > 10 and y + image.shape[1] > 10)
            background += 1
    assert background > 5
    # A frame that is one cell has no background; an empty frame takes its place.
    assert (64, 64) in shapes
    assert len(shapes) > 1


@pytest.mark.parametrize(
    "shape", [pytest.param((90, 70), id="grey"), pytest.param((90, 70, 3), id="RGB")]
)
def test_frames_are_normalised_as_a_whole(
    make_dataset: MakeDataset, shape: tuple[int, ...]
) -> None:
    dataset = make_dataset([(10, 10, 40, 40)], shape=shape)
    (image,) = prepare_instances(dataset, 1.0)
    camera = torch.from_numpy(dataset.frames[0].read().astype(np.int32)).reshape(90, 70, -1)
    expected = to_8_bit(camera.float(), PercentileLevels()(camera)).permute(2, 0, 1)
    assert image.pixels.dtype == torch.uint8
    assert torch.equal(image.pixels, expected.expand(3, -1, -1))


def test_a_black_frame_with_cells_is_refused(make_dataset: MakeDataset) -> None:
    dataset = make_dataset([(10, 10, 20, 20)])
    assert cv2.imwrite(str(dataset.frames[0].path), np.zeros((100, 100), np.uint8))
    with pytest.raises(ValueError, match=r"frame_0\.png: all pixels are 0, yet 1 cells"):
        prepare_instances(dataset, 1.0)
    (empty,) = prepare_instances(
        AnnotatedDataset(("cell",), (replace(dataset.frames[0], cells=()),)), 1.0
    )
    assert empty.pixels.min() == empty.pixels.max()


def test_images_of_one_batch_may_differ_in_size() -> None:
    images, targets = collate([marked_image().example(), marked_image().rotated(1).example()])
    assert [image.shape for image in images] == [(3, 30, 40), (3, 40, 30)]
    assert [len(target["boxes"]) for target in targets] == [2, 2]
