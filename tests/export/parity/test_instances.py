"""The chain of graphs against ultralytics and torchvision: equal on real frames, and it bites."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest

from cytoserve.contract import CELL_MASKS, MASK_SIZE
from cytoserve.images import read_frame
from export.parity import instances
from export.parity.chain import Arrays, Chain
from export.parity.instances import (
    MASK_IOU,
    ChainParity,
    check_chain,
    instance_inputs,
    sized_views,
)
from export.parity.reference import normalised_rgb
from export.parity.steps import ParityError
from export.resnet.reference import classify_cells, classify_one_by_one
from export.yolo import steps
from export.yolo.reference import UltralyticsYolo
from training.checkpoint import LearnedScale
from training.resnet.network import CellClassifier, load_classifier
from training.yolo.network import SegmentationModel, load_network

DATA = Path(__file__).parents[4] / "shared" / "data"

Change = Callable[[Arrays], None]


SCALE = LearnedScale(network_scale=1.0, cell_diameter_px=36.0, largest_cell_px=96.0)


@pytest.fixture(scope="module")
def chain(exported_repository: Path) -> Chain:
    return Chain(exported_repository, "yolo_resnet", threads=2)


@pytest.fixture(scope="module")
def yolo(checkpoints: Path) -> UltralyticsYolo:
    return UltralyticsYolo(load_network(checkpoints / "cells")[0])


@pytest.fixture(scope="module")
def classifier(checkpoints: Path) -> CellClassifier:
    return load_classifier(checkpoints / "classifier")[0]


class ChangedChain(Chain):
    """A chain whose answers are changed."""

    def __init__(self, chain: Chain, change: Change) -> None:
        self.chain, self.change = chain, change
        self.pipeline = chain.pipeline

    def run(self, inputs: Arrays, requested: list[str]) -> Arrays:
        answer = {name: array.copy() for name, array in self.chain.run(inputs, requested).items()}
        self.change(answer)
        return answer


def shift_boxes(answer: Arrays) -> None:
    answer["boxes"] += np.float32(0.6)


def lose_cells(answer: Arrays) -> None:
    for name in ("boxes", "scores", "class_ids", "class_probs", "masks"):
        answer[name] = answer[name][::2]


def mirror_masks(answer: Arrays) -> None:
    answer["masks"] = answer["masks"][:, :, ::-1]


def shift_masks(answer: Arrays) -> None:
    answer["masks"] = np.roll(answer["masks"], 3, axis=1)
    answer["masks"][:, :3] = 0


def other_class(answer: Arrays) -> None:
    answer["class_ids"][-1] = 1 - answer["class_ids"][-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(shift_boxes, r"have none within 0\.5 px", id="boxes shifted"),
        pytest.param(lose_cells, r"have none within 0\.5 px", id="cells lost"),
        pytest.param(mirror_masks, r"mean mask IoU 0\.\d+ < 0\.9\d+", id="masks mirrored"),
        pytest.param(shift_masks, r"mean mask IoU 0\.\d+ < 0\.9\d+", id="masks shifted"),
        pytest.param(other_class, r"classes agree for 9", id="one class changed"),
    ],
)
def test_a_wrong_chain_is_refused(
    chain: Chain,
    yolo: UltralyticsYolo,
    classifier: CellClassifier,
    frames: dict[str, np.ndarray],
    change: Change,
    message: str,
) -> None:
    changed = ChangedChain(chain, change)
    with pytest.raises(
        ParityError, match=f"frame rendered.tif at score threshold 0.5: .*{message}"
    ):
        check_chain(
            changed, yolo, partial(classify_cells, classifier), frames, SCALE, thresholds=[0.5]
        )


def disc(radius: float) -> np.ndarray:
    y, x = np.mgrid[:400, :400] - 200.0
    return np.hypot(y, x) < radius


def with_holes(mask: np.ndarray) -> np.ndarray:
    mask[::8, ::8] = mask[1::8, ::8] = False  # two pixels high, one wide
    return mask


@pytest.mark.parametrize(
    ("mask", "least", "most"),
    [
        pytest.param(disc(8), 0.99, 1.0, id="small"),
        pytest.param(disc(180), 0.98, 1.0, id="large"),
        pytest.param(with_holes(disc(180)), 0.9, 0.98, id="holes smaller than a patch's pixels"),
        pytest.param(with_holes(disc(20)), 0.99, 1.0, id="holes that a patch holds"),
        pytest.param(disc(0), 1.0, 1.0, id="empty"),
    ],
)
def test_what_a_patch_can_hold_of_a_mask(mask: np.ndarray, least: float, most: float) -> None:
    radius = max(1.0, np.sqrt(mask.sum() / np.pi)) + 2
    box = np.array([200 - radius, 200 - radius, 200 + radius, 200 + radius], np.float32)
    assert least <= instances._holdable(box, mask, mask, MASK_SIZE) <= most


@pytest.mark.parametrize(
    ("slope", "least", "most"),
    [
        pytest.param(0.05, 0.998, 1.0, id="sure but for its outline"),
        pytest.param(0.0005, 0.9, 0.985, id="a level of 8 bits in eight pixels"),
    ],
)
def test_what_a_patch_can_hold_of_a_doubtful_mask(slope: float, least: float, most: float) -> None:
    y, x = np.mgrid[:400, :400] - 200.0
    soft = np.clip(0.5 + slope * (60 - np.hypot(y, x)), 0, 1).astype(np.float32)
    box = np.array([120, 120, 280, 280], np.float32)
    assert least <= instances._holdable(box, soft >= 0.5, soft, MASK_SIZE) <= most


@pytest.mark.parametrize(
    ("radius", "distance", "most"),
    [
        pytest.param(8, 0.1, 0.98, id="a small cell"),
        pytest.param(8, 0.5, 0.9, id="of a network that sees it at a fifth"),
        pytest.param(180, 0.1, 1.0, id="a large one"),
    ],
)
def test_the_iou_of_outlines_at_a_distance(radius: float, distance: float, most: float) -> None:
    """A disc that is larger by the distance has just that IoU."""
    whole = instances._iou_at_distance(disc(radius), distance)
    assert whole == pytest.approx(1 - 2 * distance / radius, abs=0.01)
    assert whole < most


@pytest.mark.parametrize("radius", [6, 8, 20])
def test_a_small_mask_shifted_by_half_a_pixel_is_too_far(radius: float) -> None:
    y, x = np.mgrid[:400, :400] - 200.0
    one, other = disc(radius), np.hypot(y, x - 0.5) < radius
    iou = (one & other).sum() / (one | other).sum()
    assert iou < instances._iou_at_distance(one, instances.OUTLINE_TOLERANCE)


def test_masks_finer_than_a_patch_are_held_to_what_it_can_hold() -> None:
    figure = ChainParity("frame.tif", 0.5, 3, 0, 0.1, 0.97, 1.0, least_mask_iou=0.96)
    instances._hold(figure)
    with pytest.raises(ParityError, match=r"mean mask IoU 0\.9700 < 0\.98"):
        instances._hold(replace(figure, least_mask_iou=MASK_IOU))


@pytest.mark.parametrize(
    ("cells", "mask_iou", "holds"),
    [
        pytest.param(1, 0.981, True, id="a pixel of one small cell"),
        pytest.param(1, 0.979, False, id="more than that"),
        pytest.param(2, 0.984, True, id="two cells"),
        pytest.param(2, 0.982, False, id="two cells, both worse"),
        pytest.param(100, 0.9891, True, id="a hundred cells"),
        pytest.param(400, 0.9891, False, id="as far below, and no chance any more"),
    ],
)
def test_masks_of_few_cells_may_be_below_by_chance(
    cells: int, mask_iou: float, holds: bool
) -> None:
    figure = ChainParity("frame.tif", 0.5, cells, 0, 0.1, mask_iou, 1.0)
    with nullcontext() if holds else pytest.raises(ParityError, match="mean mask IoU"):
        instances._hold(figure)


@pytest.mark.parametrize(
    ("cells", "most"), [(0, 2), (1, 2), (50, 5), (63, 6), (500, 29), (4000, 185)]
)
def test_few_cells_have_no_partner(cells: int, most: int) -> None:
    figure = ChainParity("frame.tif", 0.05, cells, most, 0.1, 1.0, 1.0)
    instances._hold(figure)
    with pytest.raises(ParityError, match=f"{most + 1} cells of either side"):
        instances._hold(replace(figure, unmatched=most + 1))


def test_masks_that_ultralytics_has_no_memory_for_are_left_out(
    chain: Chain,
    yolo: UltralyticsYolo,
    classifier: CellClassifier,
    frames: dict[str, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    figures = check_chain(chain, yolo, partial(classify_cells, classifier), frames, SCALE, [0.5])
    most = max(figure.cells for figure in figures) * frames["rendered.tif"].size
    monkeypatch.setattr(instances, "REFERENCE_PIXELS", most)
    assert (
        check_chain(chain, yolo, partial(classify_cells, classifier), frames, SCALE, [0.5, 0.05])
        == figures
    )
    monkeypatch.setattr(instances, "REFERENCE_PIXELS", 1)
    with pytest.raises(ParityError, match="none of 1 frames can be compared"):
        check_chain(chain, yolo, partial(classify_cells, classifier), frames, SCALE, [0.5])


def test_all_thresholds_are_tried(
    chain: Chain,
    yolo: UltralyticsYolo,
    classifier: CellClassifier,
    frames: dict[str, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(instances, "THRESHOLDS", (0.6, 0.5))
    figures = check_chain(chain, yolo, partial(classify_cells, classifier), frames, SCALE)
    assert {figure.score_threshold for figure in figures} == {0.6, 0.5}


def test_another_classifier_is_refused(
    chain: Chain,
    yolo: UltralyticsYolo,
    classifier: CellClassifier,
    frames: dict[str, np.ndarray],
) -> None:
    wrong = copy.deepcopy(classifier)
    wrong.resnet.fc.weight.data = wrong.resnet.fc.weight.data.flip(0)
    wrong.resnet.fc.bias.data = wrong.resnet.fc.bias.data.flip(0)
    with pytest.raises(ParityError, match="classes agree for"):
        check_chain(chain, yolo, partial(classify_cells, wrong), frames, SCALE, [0.5])


def test_requested_outputs_decide_what_runs(chain: Chain, frames: dict[str, np.ndarray]) -> None:
    image = np.atleast_3d(frames["rendered.tif"])
    inputs = instance_inputs(image, 0.25)
    sessions, used = dict(chain.sessions), []

    class Recorded(dict):  # type: ignore[type-arg]
        def __getitem__(self, name: str):
            used.append(name)
            return sessions[name]

    recorded = copy.copy(chain)
    recorded.sessions = Recorded(sessions)
    recorded.run(inputs, ["boxes", "masks"])
    assert used == ["yolo_prepare", "yolo_cells", "yolo_decode"]


@pytest.fixture(scope="module")
def real_frames() -> dict[str, np.ndarray]:
    """Name -> part of a frame: stained blood, phase contrast and stained nuclei."""
    folders = [DATA / name / "images" for name in ("bccd", "t98g", "dsb2018")]
    for folder in folders:
        if not folder.is_dir():
            pytest.skip(f"no real frames at {folder}")
    chosen = [sorted(folder.iterdir())[0] for folder in folders]
    return {file.name: read_frame(file)[:480, :480] for file in chosen}


def test_real_frames(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    exported_repository: Path,
    make_random_yolo: Callable[..., SegmentationModel],
    real_frames: dict[str, np.ndarray],
) -> None:
    network = make_random_yolo(1, list(real_frames.values()))
    onnx.save(steps.yolo_network("yolo_cells", network).graph, tmp_path / "yolo_cells.onnx")
    files = {"yolo_cells": tmp_path / "yolo_cells.onnx"}
    chain = Chain(exported_repository, "yolo_resnet", files, threads=2)
    # Random weights turn a grey level of OpenCV's rounding into other scores, in small frames
    # above all: which cells are found may differ, but those that both find must agree.
    monkeypatch.setattr(instances, "UNMATCHED", 0.4)
    figures = check_chain(chain, UltralyticsYolo(network), None, real_frames, SCALE, [0.25])
    first, *others = real_frames
    assert [figure.frame for figure in figures] == [first, f"{first} in tiles", *others]
    assert sum(figure.cells for figure in figures) > 100, figures


@pytest.mark.parametrize(
    ("shape", "scale", "expected"),
    [
        pytest.param((480, 640), 1.0, (400, 768), id="landscape"),
        pytest.param((640, 480, 3), 1.0, (768, 400, 3), id="portrait-in-colour"),
        pytest.param((1024, 1024), 0.5, (1536, 682), id="at-half-its-scale"),
        pytest.param((200, 300), 1.0, (78, 768), id="much-smaller-than-the-field"),
        pytest.param((2000, 2000), 1.0, None, id="larger-anyway"),
        pytest.param((200, 200), 1.0, None, id="would-be-a-strip"),
    ],
)
def test_the_first_frame_comes_again_in_tiles(shape, scale, expected) -> None:
    """It keeps its scale, for at another one a network sees what it never learned."""
    image = np.random.default_rng(0).integers(0, 4000, shape, np.uint16)
    learned = SCALE.model_copy(update={"network_scale": scale})
    views = list(sized_views({"one": image, "other": image}, learned, 640, (0.5, 0.25)))
    names = ["one", "one in tiles", "other"] if expected else ["one", "other"]
    assert [name for name, *_ in views] == names
    assert {seen for _, _, seen, _ in views} == {scale}
    if expected:
        _, longer, _, thresholds = views[1]
        assert longer.shape == expected
        assert max(expected) * scale > 640
        rows, columns = (min(sides) for sides in zip(shape[:2], expected[:2], strict=True))
        np.testing.assert_array_equal(longer[:rows, :columns], image[:rows, :columns])
        assert thresholds == (0.5,)


def test_the_study_classifies_each_polygon(classifier: CellClassifier) -> None:
    rgb = normalised_rgb(np.random.default_rng(0).integers(0, 4000, (60, 80), np.uint16))
    polygon = np.array([[10, 10], [40, 12], [30, 50]], np.float32)
    outside = np.array([[-5, -5], [3, 4], [90, 70]], np.float32)
    ids = classify_one_by_one(classifier, rgb, [polygon, outside])
    assert ids.shape == (2,)
    assert classify_one_by_one(classifier, rgb, []).shape == (0,)


def test_an_empty_frame_has_no_cells(chain: Chain) -> None:
    black = np.zeros((100, 120, 1), np.uint16)
    answer = chain.run(instance_inputs(black, 1.5), ["boxes", "class_ids", "class_probs", "masks"])
    assert answer["boxes"].shape == (0, 4)
    assert answer["class_ids"].shape == (0,)
    assert answer["class_probs"].shape == (0, 2)
    assert answer["masks"].shape == (0, *CELL_MASKS.dims[1:])
