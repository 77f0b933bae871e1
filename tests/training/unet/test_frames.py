"""Images, masks and border weights; windows and empty frames drawn for training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch

from training.datasets.annotated import AnnotatedDataset
from training.run.lightning import EpochBatches
from training.unet.frames import (
    MaskedImage,
    balancing_weights,
    border_weights,
    foreground_mask,
    prepare_frames,
    read_tiles,
    weigh_borders,
)
from training.unet.samples import TrainingWindows, ValidationImages, change_appearance, turn
from training.unet.settings import GLIOMA_PRESETS, UnetSettings

MakeDataset = Callable[..., AnnotatedDataset]


def masked(height: int, width: int, seed: int = 0) -> MaskedImage:
    """An image that is bright where its mask is set."""
    mask = np.random.default_rng(seed).random((1, height, width)) < 0.5
    ones = torch.ones((1, 1, 1), dtype=torch.float16)
    pixels = torch.from_numpy((mask * 200).astype(np.uint8)).expand(3, -1, -1).contiguous()
    return MaskedImage(f"{width}x{height}", pixels, torch.from_numpy(mask), ones)


def settings(**given: Any) -> UnetSettings:
    return UnetSettings(**{"encoder": "U-Net", "batch": 2, "resolution": "32x16", **given})


def test_all_cells_become_one_mask(make_dataset: MakeDataset) -> None:
    dataset = make_dataset([(10, 20, 30, 15), (30, 25, 20, 20)], [])
    mask = foreground_mask(dataset.frames[0])
    assert mask.shape == (100, 100)
    assert mask.sum() == 30 * 15 + 20 * 20 - 10 * 10
    assert mask[10, 20]
    assert mask[49, 44]
    assert not foreground_mask(dataset.frames[1]).any()


@pytest.mark.parametrize("shape", [(60, 80), (60, 80, 3)], ids=["grey", "RGB"])
def test_frames_are_prepared_once(make_dataset: MakeDataset, shape: tuple[int, ...]) -> None:
    (image,) = prepare_frames(make_dataset([(10, 20, 30, 15)], shape=shape))
    assert image.pixels.shape == (3 if len(shape) == 3 else 1, 60, 80)
    assert image.pixels.dtype == torch.uint8
    pixels, mask, weights = image.planes()
    assert pixels.shape == (3, 60, 80)
    assert mask.shape == (1, 60, 80)
    assert float(weights.mean()) == 1
    assert float(pixels[:, mask[0] > 0].float().mean()) > 200


@pytest.mark.parametrize("value", [0, 255], ids=["black", "white"])
def test_an_annotated_frame_of_one_value_is_refused(make_dataset: MakeDataset, value: int) -> None:
    dataset = make_dataset([(10, 20, 30, 15)], [])
    for frame in dataset.frames:
        cv2.imwrite(str(frame.path), np.full((100, 100), value, np.uint8))
    with pytest.raises(ValueError, match=rf"frame_0.png: all pixels are {value}, yet 1 cells"):
        prepare_frames(dataset)
    empty = prepare_frames(dataset.subset({"frame_1"}))
    assert empty[0].pixels.unique().tolist() == [128]


def write_tile(folder: Path, image: np.ndarray, mask: np.ndarray) -> tuple[str, str]:
    cv2.imwrite(str(folder / "image.png"), image)
    cv2.imwrite(str(folder / "mask.png"), mask)
    return "image.png", "mask.png"


def test_tiles_are_read_as_rgb(tmp_path: Path) -> None:
    image, mask = np.zeros((8, 12, 3), np.uint8), np.zeros((8, 12), np.uint8)
    image[..., 0] = 9  # OpenCV's blue
    mask[2, 3] = 255
    (tile,) = read_tiles(tmp_path, [write_tile(tmp_path, image, mask)])
    assert tile.pixels[:, 0, 0].tolist() == [0, 0, 9]
    assert tile.mask.nonzero().tolist() == [[0, 2, 3]]


def test_tiles_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    files = write_tile(tmp_path, np.zeros((8, 12, 3), np.uint8), np.zeros((8, 11), np.uint8))
    with pytest.raises(ValueError, match=r"must have one size; they have \(8, 12\) and \(8, 11\)"):
        read_tiles(tmp_path, [files])
    with pytest.raises(ValueError, match=r"absent.png cannot be read; make the tiles again"):
        read_tiles(tmp_path, [("image.png", "absent.png")])


def test_borders_are_weighed_once_and_cut_with_the_image() -> None:
    mask = np.zeros((1, 40, 40), bool)
    mask[0, 5:20, 5:19] = mask[0, 5:20, 22:36] = True
    plain = MaskedImage(
        "two", torch.zeros((1, 40, 40), dtype=torch.uint8), torch.from_numpy(mask), torch.ones(1)
    )
    (weighed,) = weigh_borders([plain], 0.25, UnetSettings(border_weight=10, border_sigma=5))
    assert float(weighed.weights[0, 10, 10]) == 2.0
    assert float(weighed.weights[0, 10, 20]) > 5
    part = weighed.window(8, 18, 4, 6)
    assert torch.equal(part.weights, weighed.weights[:, 8:12, 18:24])
    assert part.resized((8, 12)).weights.shape == (1, 8, 12)


@pytest.mark.parametrize(
    ("size", "least", "most"),
    [
        pytest.param((1120, 1472), 0.99, 1.01, id="larger: its share of the image is kept"),
        pytest.param((150, 200), 1.01, 1.3, id="smaller: all above 0 counts, as in the metric"),
    ],
)
def test_masks_of_another_size(size: tuple[int, int], least: float, most: float) -> None:
    mask = np.zeros((296, 401), np.uint8)
    cv2.circle(mask, (200, 150), 10, 1, -1)
    pixels = torch.zeros((1, *mask.shape), dtype=torch.uint8)
    image = MaskedImage("disc", pixels, torch.from_numpy(mask > 0)[None], torch.ones(1))
    shares = [float(each.mask.float().mean()) for each in (image, image.resized(size))]
    assert least < shares[1] / shares[0] < most


@pytest.mark.parametrize(
    ("given", "size"),
    [
        pytest.param({}, (16, 32), id="resize"),
        pytest.param({"mode": "crop"}, (16, 32), id="crop"),
        pytest.param({"window_scale": 0.57}, (16, 32), id="random resized crop"),
        pytest.param(
            {"window_scale": 0.9, "window_scale_spread": 0.3}, (16, 32), id="scale beyond the image"
        ),
        pytest.param({"resolution": "native", "batch": 1}, (40, 50), id="native"),
    ],
)
def test_windows_have_the_resolution(given: dict[str, Any], size: tuple[int, int]) -> None:
    windows = TrainingWindows([masked(40, 50)], settings(**given))
    (batch,) = EpochBatches(1, 1, 2, seed=0)
    pixels, mask, _ = windows[batch[0]]
    assert pixels.shape == (3, *size)
    assert mask.shape == (1, *size)
    assert set(mask.unique().tolist()) == {0.0, 1.0}


def test_crops_are_at_native_scale_and_everywhere() -> None:
    image = masked(40, 50)
    windows = TrainingWindows(
        [image], settings(mode="crop", samples_per_frame=60, flip_probability=0.5)
    )
    batches = [b for b in EpochBatches(1, 60, 2, seed=0) for b in b]
    seen = [windows[draw] for draw in batches]
    assert len(seen) == 60
    assert len({pixels.numpy().tobytes() for pixels, _, _ in seen}) > 50
    for pixels, mask, _ in seen:  # the mask goes with its image
        assert torch.equal(pixels[:1].float(), mask * 200)


@pytest.mark.parametrize(
    ("preset", "least", "most"),
    [
        pytest.param("pre-train-57-5", 0.52, 0.62, id="57 % +- 5 %"),
        pytest.param("pre-train-57-30", 0.27, 0.87, id="57 % +- 30 %"),
    ],
)
def test_the_scale_of_random_resized_crops_is_the_studys(
    monkeypatch: pytest.MonkeyPatch, preset: str, least: float, most: float
) -> None:
    cut: list[tuple[int, int]] = []
    window = MaskedImage.window

    def remember(image: MaskedImage, y: int, x: int, height: int, width: int) -> MaskedImage:
        assert 0 <= y <= 1000 - height
        assert 0 <= x <= 1200 - width
        cut.append((height, width))
        return window(image, y, x, height, width)

    monkeypatch.setattr(MaskedImage, "window", remember)
    small = {"resolution": "32x16", "samples_per_frame": 100}  # not the study's size, for speed
    windows = TrainingWindows([masked(1000, 1200)], GLIOMA_PRESETS[preset].model_copy(update=small))
    for batch in EpochBatches(1, 100, 2, seed=0):
        for draw in batch:
            windows[draw]
    shares = np.array(cut) / (1000, 1200)
    assert shares[:, 0] == pytest.approx(shares[:, 1], abs=0.001)
    margin = 0.1 * (most - least)
    assert least - 0.001 <= shares.min() < least + margin
    assert most - margin < shares.max() <= most + 0.001


def test_validation_covers_whole_images() -> None:
    image = masked(40, 50)
    crops = ValidationImages([image], settings(mode="crop"))
    assert len(crops) == 3 * 2
    assert torch.equal(crops[0][0], image.pixels[:, :16, :32])
    assert torch.equal(crops[5][0], image.pixels[:, 24:, 18:])
    assert len(ValidationImages([image], settings())) == 1
    assert len(ValidationImages([image], settings(window_scale=0.5))) == 2 * 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param({"mode": "crop", "resolution": "60x30"}, "cuts windows of 60x30", id="crop"),
        pytest.param({"resolution": "native"}, "these have 50x40, 24x48", id="two sizes"),
    ],
)
def test_images_that_do_not_fit_are_refused(given: dict[str, Any], message: str) -> None:
    images = [masked(40, 50), masked(48, 24)]
    with pytest.raises(ValueError, match=message):
        TrainingWindows(images, settings(**given))


def test_images_of_two_sizes_are_validated_one_by_one() -> None:
    images = [masked(40, 50), masked(48, 24)]
    shown = ValidationImages(images, settings(resolution="native", batch=1))
    assert [image.size for image in shown.images] == [(40, 50), (48, 24)]


@pytest.mark.parametrize(
    ("count", "batch", "sizes"),
    [
        pytest.param(6, 2, [2, 2, 2], id="whole batches"),
        pytest.param(5, 2, [2, 2], id="one is left over"),
        pytest.param(5, 3, [3, 2], id="two are left over"),
        pytest.param(1, 4, [1], id="a single one"),
        pytest.param(3, 1, [1, 1, 1], id="batches of one"),
    ],
)
def test_batches_of_an_epoch(count: int, batch: int, sizes: list[int]) -> None:
    batches = EpochBatches(count, 1, batch, seed=3)
    first = list(batches)
    assert len(batches) == len(sizes)
    assert [len(b) for b in first] == sizes
    drawn = [draw.index for b in first for draw in b]
    assert len(set(drawn)) == len(drawn)
    assert list(batches) == first
    batches.epoch = 1
    assert list(batches) != first


@pytest.mark.parametrize(
    ("images", "blanks", "batch"),
    [
        pytest.param(10, 1, 2, id="a tenth"),
        pytest.param(6, 6, 4, id="as many"),
        pytest.param(3, 0, 2, id="none"),
        pytest.param(1, 1, 1, id="batches of one"),
    ],
)
def test_empty_frames_are_drawn_among_the_images(images: int, blanks: int, batch: int) -> None:
    batches = EpochBatches(images, 2, batch, seed=3, blanks=blanks)
    drawn: list[int] = []
    for batches.epoch in range(20):
        epoch = [draw.index for b in batches for draw in b]
        assert epoch.count(images) <= blanks
        assert len(epoch) >= 2 * images + blanks - 1  # a last one alone is left out
        drawn += epoch
    assert max(drawn) == (images if blanks else images - 1)
    assert drawn.count(images) >= 0.8 * 20 * blanks


def test_without_empty_frames_batches_are_as_they_were() -> None:
    random = np.random.default_rng((3, 0))
    order = random.permutation(np.repeat(np.arange(5), 2))
    batches = list(EpochBatches(5, 2, 2, seed=3))
    assert [draw.index for b in batches for draw in b] == order.tolist()


def test_a_draw_beyond_the_images_is_an_empty_frame_made_anew() -> None:
    made = []

    def blank(random: np.random.Generator) -> MaskedImage:
        made.append(int(random.integers(256)))
        pixels = torch.full((1, 40, 50), made[-1], dtype=torch.uint8)
        empty = torch.zeros((1, 40, 50), dtype=torch.bool)
        return MaskedImage("empty", pixels, empty, torch.ones((1, 1, 1), dtype=torch.float16))

    windows = TrainingWindows([masked(40, 50)], settings(mode="crop"), blank)
    batches = EpochBatches(1, 4, 4, seed=0, blanks=4)
    draws = [draw for batch in batches for draw in batch]
    seen = [windows[draw] for draw in draws]
    empty = [planes for planes, draw in zip(seen, draws, strict=True) if draw.index == 1]
    assert [int(pixels.max()) for pixels, _, _ in empty] == made
    assert len(set(made)) == 4
    assert all(pixels.shape == (3, 16, 32) and not mask.any() for pixels, mask, _ in empty)
    assert all(mask.any() for planes, mask, _ in seen if planes.max() == 200)
    again = [windows[draw] for draw in draws]
    assert all(torch.equal(a[0], b[0]) for a, b in zip(seen, again, strict=True))


def test_no_batch_of_a_validation_holds_images_and_empty_frames() -> None:
    images = [masked(16, 32, n) for n in range(3)]
    shown = ValidationImages(images, settings(), [masked(16, 32, 9)] * 3)
    assert len(shown) == 6
    assert shown.batches(2) == ([[0, 1], [2]], [[3, 4], [5]])
    assert ValidationImages(images, settings()).batches(4) == ([[0, 1, 2]], [])
    crops = ValidationImages([masked(40, 50)], settings(mode="crop"), [masked(40, 50)])
    assert [len(part) for part in crops.batches(1)] == [6, 6]


def test_a_batch_is_turned_as_one() -> None:
    windows = TrainingWindows([masked(16, 32, n) for n in range(4)], settings(rotate_90=True))
    batches = EpochBatches(4, 10, 4, seed=0)
    shapes = {tuple({windows[d][0].shape[1:] for d in batch}) for batch in batches}
    assert shapes == {((16, 32),), ((32, 16),)}


def test_turns_are_flips_and_quarter_turns_of_all_planes() -> None:
    image = torch.arange(6, dtype=torch.uint8).reshape(1, 2, 3)
    generator = torch.Generator().manual_seed(0)

    def drawn(flip_probability: float, quarter: bool | None) -> set[tuple[Any, ...]]:
        found = set()
        for _ in range(60):
            a, b = turn(
                (image, image + 10), generator, flip_probability=flip_probability, quarter=quarter
            )
            assert torch.equal(a + 10, b)
            found.add((a.shape, *a.flatten().tolist()))
        return found

    assert len(drawn(0.0, None)) == 1
    assert len(drawn(0.5, None)) == 4
    assert len(drawn(0.0, False)) == 2
    assert len(drawn(0.5, True)) == 4
    assert {shape[0] for shape in drawn(0.5, True)} == {torch.Size([1, 3, 2])}


@pytest.mark.parametrize("option", ["sharpness", "contrast"])
def test_appearance_changes_only_when_asked(option: str) -> None:
    image = masked(16, 16).pixels // 2 + 50
    generator = torch.Generator().manual_seed(0)
    none = {"sharpness": 0.0, "contrast": 0.0}
    assert torch.equal(change_appearance(image, generator, **none), image)
    changed = [change_appearance(image, generator, **{**none, option: 0.5}) for _ in range(3)]
    spreads = {round(float(c.float().std()), 3) for c in changed}
    assert len(spreads) == 3
    assert all(c.dtype == torch.uint8 for c in changed)


def brute_force(
    labels: npt.NDArray[np.int32], classes: tuple[float, float], w0: float, sigma: float
) -> npt.NDArray[np.float64]:
    """The formula, read pixel by pixel."""
    weights = np.zeros(labels.shape)
    objects = [np.argwhere(labels == n) for n in np.unique(labels) if n]
    for pixel in np.ndindex(*labels.shape):
        if labels[pixel]:
            weights[pixel] = classes[1]
            continue
        distances = sorted(np.linalg.norm(o - pixel, axis=1).min() for o in objects)
        term = np.exp(-((distances[0] + distances[1]) ** 2) / (2 * sigma**2))
        weights[pixel] = classes[0] + w0 * term
    return weights


def test_border_weights_are_those_of_the_formula() -> None:
    labels = np.zeros((60, 70), np.int32)
    labels[5:20, 5:20] = 1
    labels[8:25, 23:30] = 2  # three pixels beside it
    labels[40:44, 50:60] = 5  # far away; the numbers between are of no object
    labels[22, 10] = 6
    found = border_weights(labels, (0.6, 3.0), w0=10, sigma=2)
    assert found.dtype == np.float32
    assert np.abs(found - brute_force(labels, (0.6, 3.0), 10, 2)).max() < 1e-4
    gap = found[12, 21]
    assert gap == pytest.approx(0.6 + 10 * np.exp(-((2 + 2) ** 2) / 8), rel=1e-5)
    assert found[50, 10] == pytest.approx(0.6)


@pytest.mark.parametrize("objects", [0, 1], ids=["no object", "one object"])
def test_without_a_second_object_there_is_no_border(objects: int) -> None:
    labels = np.zeros((20, 20), np.int32)
    labels[5:9, 5:9] = objects
    weights = border_weights(labels, (0.5, 2.0))
    assert np.array_equal(weights, np.where(labels > 0, 2.0, 0.5))


def test_both_classes_weigh_the_same() -> None:
    background, foreground = balancing_weights(0.1)
    assert 0.9 * background == pytest.approx(0.5)
    assert 0.1 * foreground == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("balance", "ratio"),
    [
        pytest.param(1.0, 9.0, id="in full"),
        pytest.param(0.5, 3.0, id="by half"),
        pytest.param(0.0, 1.0, id="not at all"),
    ],
)
def test_classes_are_balanced_as_far_as_asked(balance: float, ratio: float) -> None:
    background, foreground = balancing_weights(0.1, balance)
    assert foreground / background == pytest.approx(ratio)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_one_class_alone_cannot_be_balanced(share: float) -> None:
    with pytest.raises(ValueError, match="need pixels of both"):
        balancing_weights(share)
