from __future__ import annotations

import math

import numpy as np
import pytest
from skimage.measure import regionprops_table

from cytoserve import Cells
from cytoserve.measurements import MEASUREMENTS

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


def test_label_image_keeps_the_better_cell_and_masks_keep_both(cells):
    labels, masks = cells.label_image(), list(cells.masks())
    assert labels.shape == (60, 80)
    assert labels.dtype == np.uint16
    shared = masks[1] & masks[2]
    assert shared.any()
    assert (labels[shared] == 2).all()
    for number, mask in enumerate(masks, 1):
        assert mask.dtype == bool
        assert (labels[mask] != 0).all()
        assert (mask[labels == number]).all()


def test_painted_labels_of_the_server_are_used(cells):
    painted = np.full((60, 80), 9, np.uint16)
    given = Cells(*[getattr(cells, name) for name in ARRAYS], (60, 80), ("a", "b"), 3, painted)
    assert (given.label_image() == 9).all()
    assert given[:2].labels is None


def test_table_measures_as_scikit_image_does(cells):
    table = cells.table()
    assert table["label"].tolist() == [1, 2, 3]
    assert table["class"].tolist() == ["RBC", "WBC", "RBC"]
    assert table["probability-WBC"].tolist() == pytest.approx([0.1, 0.75, 0.4])
    names = sorted({name.rpartition("-")[0] or name for name in MEASUREMENTS})
    for row, mask in enumerate(cells.masks()):
        expected = regionprops_table(mask.astype(np.uint8), properties=names)
        for name in MEASUREMENTS:
            assert table[name][row] == pytest.approx(expected[name][0], abs=1e-9), name


def test_table_of_nothing_and_of_an_empty_cell(cells):
    assert all(len(column) == 0 for column in cells[:0].table().values())
    names = [getattr(cells, name)[:1] for name in ARRAYS]
    names[-1] = np.zeros((1, 56, 56), np.uint8)
    table = Cells(*names, (60, 80), ("RBC", "WBC"), 1).table()
    assert table["area"].tolist() == [0]
    assert math.isnan(table["centroid-0"][0])


def test_a_line_of_pixels_has_eccentricity(cells):
    line = Cells(
        np.array([[2, 3, 12, 4], [20, 20, 21, 21]], np.float32),
        np.ones(2, np.float32),
        np.zeros(2, np.int32),
        np.ones((2, 1), np.float32),
        np.full((2, 56, 56), 255, np.uint8),
        (60, 80),
        ("cell",),
        2,
    ).table()
    assert line["area"].tolist() == [10, 1]
    assert line["eccentricity"].tolist() == [1, 0]
    assert line["bbox-2"].tolist() == [4, 21]


def test_polygons_are_in_x_y_order(cells):
    polygons = cells.polygons()
    assert [polygon.shape[1] for polygon in polygons] == [2, 2, 2]
    np.testing.assert_allclose(polygons[1].mean(axis=0), (50.5, 35.5), atol=1.5)
