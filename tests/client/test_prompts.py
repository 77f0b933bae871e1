"""What may be asked of a frame: boxes, points and coarse masks, checked before anything is sent."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cytoserve import CytoserveError, InvalidPrompts, InvalidRequest, Prompts
from cytoserve.contract import MASK_SIZE, SAM_MASK_SIZE
from cytoserve.patches import paint_labels
from cytoserve.prompts import MAX_POINTS, MAX_PROMPTS

BOX = (10, 12, 60, 50)
SMALL = (5, 5, 9, 9)
NAN, INF = np.nan, np.inf


def coarse(number=1, size=MASK_SIZE, dtype=np.uint8):
    return np.full((number, size, size), 200, dtype)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        pytest.param({}, "no prompts", id="nothing"),
        pytest.param({"boxes": []}, "no prompts", id="no-rows"),
        pytest.param({"boxes": np.empty((0, 4))}, "no prompts", id="array-without-rows"),
        pytest.param({"points": np.empty((0, 1, 2))}, "no prompts", id="points-without-rows"),
        pytest.param({"boxes": [BOX, None]}, "no prompts, in row 1", id="row-of-nothing"),
        pytest.param({"points": [[], [(1, 2)]]}, "no prompts, in row 0", id="row-without-points"),
        pytest.param({"boxes": 5}, "Add a bracket", id="number"),
        pytest.param({"boxes": BOX}, "shape (), (10), in row 0", id="box-without-bracket"),
        pytest.param({"boxes": [BOX[:3]]}, "shape (3,)", id="three-numbers"),
        pytest.param({"boxes": [("a",) * 4]}, "Pass numbers", id="text"),
        pytest.param({"boxes": [BOX, (60, 12, 10, 50)]}, "inverted box, in row 1", id="inverted-x"),
        pytest.param({"boxes": [(10, 50, 60, 12)]}, "inverted box, in row 0", id="inverted-y"),
        pytest.param({"boxes": [(10, 12, 10, 50)]}, "without area, in row 0", id="zero-width"),
        pytest.param({"boxes": [BOX, SMALL, (1, 7, 9, 7)]}, "area, in row 2", id="zero-height"),
        pytest.param({"boxes": [(NAN, 12, 60, 50)]}, "(nan, 12, 60, 50), in row 0", id="nan"),
        pytest.param({"boxes": [(10, 12, INF, 50)]}, "four finite numbers", id="infinite"),
        pytest.param({"boxes": [(10, 12, 1e300, 50)]}, "four finite", id="infinite-on-the-wire"),
        pytest.param({"points": [[(1, NAN)]]}, "(1, nan), in row 0", id="nan-point"),
        pytest.param({"points": [(1, 2)]}, "Add a bracket", id="point-without-bracket"),
        pytest.param({"points": [[(1, 2, 3)]]}, "Points are [P, 2]", id="point-of-three"),
        pytest.param(
            {"points": [[(1, 2)]], "point_labels": [[2]]}, "given: 2, in row 0", id="label-of-a-box"
        ),
        pytest.param(
            {"points": [[(1, 2)]], "point_labels": [[-1]]}, "given: -1", id="label-of-nothing"
        ),
        pytest.param(
            {"points": [[(1, 2)]], "point_labels": [[0.5]]}, "given: 0.5", id="label-between"
        ),
        pytest.param(
            {"points": [[(1, 2)]], "point_labels": [[1, 0]]}, "one label", id="too-many-labels"
        ),
        pytest.param(
            {"points": [[(1, 2), (3, 4)]], "point_labels": [[1, [0]]]},
            "given: [1, [0]], in row 0",
            id="labels-of-different-depth",
        ),
        pytest.param({"boxes": [BOX], "point_labels": [[1]]}, "Add the points", id="labels-alone"),
        pytest.param(
            {"boxes": [BOX, SMALL], "points": [[(1, 2)]]}, "2 boxes, 1 points", id="different-n"
        ),
        pytest.param(
            {"points": [[(1, 2)]], "point_labels": [[1], [1]]}, "2 point_labels", id="labels-n"
        ),
        pytest.param(
            {"boxes": [BOX], "masks": coarse(size=28)}, "given: uint8 [1, 28, 28]", id="mask-size"
        ),
        pytest.param({"boxes": [BOX], "masks": coarse(2)}, "uint8 [2, 56, 56]", id="mask-n"),
        pytest.param(
            {"boxes": [BOX], "masks": coarse(dtype=np.float32)}, "float32", id="mask-dtype"
        ),
        pytest.param({"boxes": [BOX], "masks": coarse().tolist()}, "given: list", id="mask-list"),
        pytest.param({"masks": coarse()}, "masks without boxes", id="mask-alone"),
        pytest.param(
            {"boxes": [BOX, None], "points": [None, [(1, 2)]], "masks": coarse(2)},
            "a mask without a box, in row 1",
            id="mask-without-a-box",
        ),
        pytest.param({"boxes": np.tile(BOX, (MAX_PROMPTS + 1, 1))}, "at most 4096", id="too-many"),
        pytest.param(
            {"points": [np.ones((MAX_POINTS + 1, 2))]}, "given: 65, in row 0", id="too-many-points"
        ),
    ],
)
def test_prompts_that_say_nothing_clear_are_refused(given, told):
    with pytest.raises(InvalidPrompts) as refusal:
        Prompts(**given)
    assert told in str(refusal.value)
    assert "; given: " in str(refusal.value)
    assert str(refusal.value).endswith(".")


def test_refusals_are_in_the_tree():
    assert issubclass(InvalidPrompts, InvalidRequest)
    assert issubclass(InvalidPrompts, CytoserveError)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        pytest.param({"boxes": [SMALL, (-1, 2, 5, 5)]}, "(-1, 2, 5, 5), in row 1", id="left"),
        pytest.param({"boxes": [(1, 2, 80.5, 5)]}, "x from 0 to 80", id="right"),
        pytest.param({"boxes": [(1, 2, 5, 61)]}, "y from 0 to 60", id="below"),
        pytest.param({"boxes": [(100, 100, 120, 120)]}, "in row 0", id="beside"),
        pytest.param({"points": [[(1, 2), (70, 61)]]}, "(70, 61), in row 0", id="point"),
        pytest.param(
            {"boxes": [SMALL, None], "points": [None, [(81, 2)]]}, "(81, 2), in row 1", id="click"
        ),
    ],
)
def test_prompts_outside_a_frame_are_refused(given, told):
    with pytest.raises(InvalidPrompts) as refusal:
        Prompts(**given).check_for((60, 80))
    assert told in str(refusal.value)


def test_the_edge_is_part_of_the_frame():
    Prompts(boxes=[(0, 0, 80, 60)], points=[[(0, 0), (80, 60)]]).check_for((60, 80))


def test_rows_of_different_kinds():
    prompts = Prompts(
        boxes=[BOX, None, SMALL],
        points=[None, [(1, 2), (3, 4)], [(6, 6)]],
        point_labels=[None, [1, 0], None],
    )
    assert len(prompts) == 3
    assert prompts.has_box.tolist() == [True, False, True]
    assert prompts.point_counts.tolist() == [0, 2, 1]
    assert prompts.point_labels.tolist() == [[-1, -1], [1, 0], [1, -1]]
    assert prompts.bounding_boxes().tolist() == [[*map(float, BOX)], [1, 2, 1, 2], [5, 5, 9, 9]]
    assert prompts.entries() == [
        {"box": [*map(float, BOX)]},
        {"points": [[1, 2], [3, 4]], "point_labels": [1, 0]},
        {"box": [5, 5, 9, 9], "points": [[6, 6]], "point_labels": [1]},
    ]
    assert repr(prompts) == "<Prompts 3: 2 boxes, 2 with points, 0 masks>"


def test_prompts_cannot_be_changed():
    boxes = np.array([BOX], np.float32)
    prompts = Prompts(boxes=boxes)
    boxes[:] = 0
    assert prompts.boxes.tolist() == [[*map(float, BOX)]]
    with pytest.raises(ValueError, match="read-only"):
        prompts.boxes[0] = 0
    with pytest.raises(AttributeError):
        prompts.boxes = boxes


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64])
def test_masks_of_a_frame(dtype):
    rows, columns = np.mgrid[:60, :80]
    masks = np.stack(
        [(rows - 15) ** 2 + (columns - 20) ** 2 <= 81, (rows > 50) & (columns > 77)]
    ).astype(dtype)
    prompts = Prompts.from_masks(masks)
    assert prompts.boxes.tolist() == [[11, 6, 30, 25], [78, 51, 80, 60]]
    labels = paint_labels(prompts.boxes, prompts.masks, (60, 80))
    np.testing.assert_array_equal(labels, masks[0] + 2 * masks[1])
    prompts.check_for((60, 80))


@pytest.mark.parametrize(
    ("masks", "told"),
    [
        pytest.param(np.zeros((2, 9, 9), bool), "none, in row 0", id="empty"),
        pytest.param(np.zeros((9, 9), bool), "given: bool [9, 9]", id="one"),
        pytest.param(np.ones((1, 9, 9)), "given: float64", id="float"),
        pytest.param(np.zeros((0, 9, 9), bool), "no prompts", id="none"),
    ],
)
def test_masks_of_a_frame_that_are_none(masks, told):
    with pytest.raises(InvalidPrompts) as refusal:
        Prompts.from_masks(masks)
    assert told in str(refusal.value)


@pytest.mark.parametrize("size", [MASK_SIZE, SAM_MASK_SIZE])
def test_cells_of_another_pipeline(cells, size):
    patches = np.repeat(np.repeat(cells.patches, size // MASK_SIZE, 1), size // MASK_SIZE, 2)
    prompts = Prompts.from_cells(replace(cells, patches=patches))
    np.testing.assert_array_equal(prompts.boxes, cells.boxes)
    np.testing.assert_array_equal(prompts.masks, cells.patches)


def test_cells_that_stick_out_are_cut_off():
    """The part in the frame keeps its place."""
    ramp = np.tile(np.linspace(0, 255, MASK_SIZE).astype(np.uint8), (MASK_SIZE, 1))
    from cytoserve import Cells

    cells = Cells(
        boxes=np.array([[-40, 10, 40, 50]], np.float32),
        scores=np.ones(1, np.float32),
        class_ids=np.zeros(1, np.int32),
        class_probs=np.ones((1, 1), np.float32),
        patches=ramp[None],
        frame_shape=(60, 80),
        class_names=("cell",),
        found=1,
    )
    prompts = Prompts.from_cells(cells)
    assert prompts.boxes.tolist() == [[0, 10, 40, 50]]
    assert abs(int(prompts.masks[0, 0, 0]) - 128) <= 3
    assert prompts.masks[0, 0, -1] == 255
    with pytest.raises(InvalidPrompts, match="without area, in row 0"):
        Prompts.from_cells(replace(cells, boxes=cells.boxes - (100, 0, 100, 0)))
    with pytest.raises(InvalidPrompts, match="no prompts"):
        Prompts.from_cells(cells[:0])
