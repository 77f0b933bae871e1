from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask
from skimage.measure import label as connected
from skimage.measure import regionprops_table

from cytoserve import Cells
from cytoserve.measurements import MEASUREMENTS
from cytoserve.outputs.coco import coco_dataset
from cytoserve.outputs.source import Source
from cytoserve.patches import THRESHOLD

ARRAYS = ("boxes", "scores", "class_ids", "class_probs", "patches")


def test_length_and_words(cells):
    assert len(cells) == 3
    assert repr(cells) == "<Cells 3 in 60 x 80 px (RBC: 2, WBC: 1)>"


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_are_read_only_and_the_callers_are_not(cells, name):
    with pytest.raises(ValueError, match="read-only"):
        getattr(cells, name)[:] = 0
    with pytest.raises(AttributeError):
        cells.found = 7
    mine = np.ones(1, np.float32)
    Cells(cells.boxes[:1], mine, *[getattr(cells, each)[:1] for each in ARRAYS[2:]], (1, 1), (), 1)
    mine[0] = 2


@pytest.mark.parametrize(
    ("index", "kept"),
    [
        pytest.param(0, [0], id="one"),
        pytest.param(-1, [2], id="last"),
        pytest.param(slice(1, None), [1, 2], id="slice"),
        pytest.param(np.array([True, False, True]), [0, 2], id="mask"),
        pytest.param(np.array([2, 0]), [2, 0], id="indices"),
        pytest.param(np.zeros(3, bool), [], id="none"),
    ],
)
def test_indexing(cells, index, kept):
    chosen = cells[index]
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(chosen, name), getattr(cells, name)[kept])
    assert not chosen.capped


def test_iteration_gives_one_cell_at_a_time(cells):
    assert [(len(cell), float(cell.scores[0])) for cell in cells] == [
        (1, pytest.approx(score)) for score in (0.9, 0.8, 0.3)
    ]


def test_index_out_of_range(cells):
    with pytest.raises(IndexError):
        cells[3]


def test_class_choice(cells):
    assert cells.of_class("RBC").scores.tolist() == pytest.approx([0.9, 0.3])
    with pytest.raises(ValueError, match="not in tuple"):
        cells.of_class("platelet")


def test_capped_stays_true_of_a_choice(cells):
    cut = Cells(*[getattr(cells, name) for name in ARRAYS], (60, 80), ("RBC", "WBC"), found=5)
    assert cut.capped
    assert cut[:1].capped
    assert "capped (found 5)" in repr(cut)


def drawn(boxes, patches, shape):
    """Cells of one class."""
    number = len(boxes)
    return Cells(
        np.array(boxes, np.float32).reshape(number, 4),
        np.linspace(1, 0.5, number, dtype=np.float32),
        np.zeros(number, np.int32),
        np.ones((number, 1), np.float32),
        patches,
        shape,
        ("cell",),
        number,
    )


edges = st.floats(-4, 24, width=32)
boxes_of_cells = st.lists(st.tuples(edges, edges, edges, edges), max_size=7)


@settings(max_examples=200, deadline=None)
@given(boxes_of_cells, st.integers(3, 20), st.integers(3, 20), st.data())
def test_everything_says_the_same_of_a_cell(boxes, height, width, data):
    number, shape = len(boxes), (height, width)
    cells = drawn(boxes, data.draw(hnp.arrays(np.uint8, (number, 5, 5))), shape)
    labels, free = cells.label_image(), height * width
    assert set(np.unique(labels)) - {0} <= set(range(1, number + 1))
    annotations = coco_dataset(cells, Source("a.png"))["annotations"]
    table, polygons, masks = cells.table(), cells.polygons(), list(cells.masks())
    assert len(annotations) == len(table["label"]) == len(polygons) == len(masks) == number
    for row, mask in enumerate(masks):
        np.testing.assert_array_equal(mask, labels == row + 1)
        area = np.count_nonzero(mask)
        full, empty = (labels != 0).all(), (cells.patches[row] < THRESHOLD).all()
        assert area or full or empty
        assert not (area and empty)
        assert connected(mask, connectivity=2).max() == min(area, 1)
        assert table["area"][row] == annotations[row]["area"] == area
        assert (len(polygons[row]) > 2) == (area > 0)
        runs = coco_mask.frPyObjects(annotations[row]["segmentation"], height, width)
        np.testing.assert_array_equal(coco_mask.decode(runs), mask)
        free -= area
    assert free == np.count_nonzero(labels == 0)


def test_an_overlap_belongs_to_the_better_cell(cells):
    labels = cells.label_image()
    assert labels.shape == (60, 80)
    assert labels.dtype == np.uint16
    alone = [cells[index].label_image() > 0 for index in range(3)]
    assert (alone[1] & alone[2]).any()
    np.testing.assert_array_equal(labels == 2, alone[1])
    np.testing.assert_array_equal(labels == 3, alone[2] & ~alone[1])
    assert cells.table()["area"].tolist() == [(labels == number).sum() for number in (1, 2, 3)]


def test_chosen_cells_are_painted_anew(cells):
    """A cell that is left out claims no pixel."""
    chosen = cells[2:]
    assert set(np.unique(chosen.label_image())) == {0, 1}
    assert chosen.table()["area"][0] > cells.table()["area"][2]


def test_the_label_image_is_painted_once_and_read_only(cells):
    labels = cells.label_image()
    assert cells.label_image() is labels
    with pytest.raises(ValueError, match="read-only"):
        labels[0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        next(cells.regions()).mask[:] = False
    changed = replace(cells, patches=np.full_like(cells.patches, 255))
    assert changed.label_image().sum() > labels.sum()


def test_painted_labels_of_the_server_are_what_all_results_are_made_of(cells):
    painted = cells.label_image().copy()
    painted[:, :20] = 0
    found = replace(cells, labels=painted)
    np.testing.assert_array_equal(found.label_image(), painted)
    for number, mask in enumerate(found.masks(), 1):
        np.testing.assert_array_equal(mask, painted == number)
    assert found.table()["area"][0] == (painted == 1).sum() < cells.table()["area"][0]
    assert found.polygons()[0][:, 0].min() == pytest.approx(20, abs=0.2)
    assert coco_dataset(found, Source())["annotations"][0]["bbox"][0] == 20
    assert found[:2].labels is None


def test_table_measures_as_scikit_image_does(cells):
    table = cells.table()
    assert table["label"].tolist() == [1, 2, 3]
    assert table["class"].tolist() == ["RBC", "WBC", "RBC"]
    assert table["probability-WBC"].tolist() == pytest.approx([0.1, 0.75, 0.4])
    names = sorted({name.rpartition("-")[0] or name for name in MEASUREMENTS})
    expected = regionprops_table(cells.label_image(), properties=names)
    for name in MEASUREMENTS:
        np.testing.assert_allclose(table[name], expected[name], atol=1e-9, err_msg=name)


def test_table_of_nothing(cells):
    assert all(len(column) == 0 for column in cells[:0].table().values())


@pytest.mark.parametrize(
    ("box", "pixel"),
    [
        pytest.param((20.6, 30.6, 21.4, 31.4), (30, 20), id="between centres"),
        pytest.param((90, 30.2, 99, 30.8), (30, 79), id="beyond the frame"),
    ],
)
def test_a_cell_that_claims_no_pixel_has_one(box, pixel):
    cells = drawn([box], np.full((1, 56, 56), 255, np.uint8), (60, 80))
    assert np.argwhere(cells.label_image()).tolist() == [list(pixel)]
    table = cells.table()
    assert (table["area"][0], table["centroid-0"][0], table["centroid-1"][0]) == (1, *pixel)
    np.testing.assert_allclose(cells.polygons()[0].mean(axis=0), np.array(pixel[::-1]) + 0.5)


@pytest.mark.parametrize(
    ("shape", "value"),
    [
        pytest.param((4, 4), 255, id="in a full frame"),
        pytest.param((8, 6), 127, id="with an empty patch"),
    ],
)
def test_a_cell_without_a_pixel(shape, value):
    patches = np.full((2, 56, 56), 255, np.uint8)
    patches[1] = value
    cells = drawn([(0, 0, 4, 4)] * 2, patches, shape)
    table = cells.table()
    assert table["area"].tolist() == [16, 0]
    assert math.isnan(table["centroid-0"][1])
    assert cells.polygons()[1].shape == (0, 2)
    annotation = coco_dataset(cells, Source("a.png"))["annotations"][1]
    assert (annotation["area"], annotation["bbox"]) == (0, [0, 0, 0, 0])
    assert annotation["segmentation"]["counts"] == [shape[0] * shape[1]]


def test_a_line_of_pixels_has_eccentricity():
    boxes = [(2, 3, 12, 4), (20, 20, 21, 21)]
    line = drawn(boxes, np.full((2, 56, 56), 255, np.uint8), (60, 80)).table()
    assert line["area"].tolist() == [10, 1]
    assert line["eccentricity"].tolist() == [1, 0]
    assert line["bbox-2"].tolist() == [4, 21]


def test_polygons_are_in_x_y_order(cells):
    polygons = cells.polygons()
    assert [polygon.shape[1] for polygon in polygons] == [2, 2, 2]
    np.testing.assert_allclose(polygons[1].mean(axis=0), (50.5, 35.5), atol=1.5)
