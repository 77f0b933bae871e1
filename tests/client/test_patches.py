from __future__ import annotations

import time
import timeit
import tracemalloc
from functools import partial

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask

from cytoserve.patches import THRESHOLD, outlines, paint_labels, regions, run_lengths


def sampled(box, patch, shape):
    """The rule, pixel by pixel: the patch's value at every pixel centre, NaN outside the box."""
    values = np.full(shape, np.nan)
    x0, y0, x1, y1 = (float(edge) for edge in box)
    size = len(patch)
    for row in range(shape[0]):
        for column in range(shape[1]):
            x, y = column + 0.5, row + 0.5
            if not (x0 <= x < x1 and y0 <= y < y1):
                continue
            u = min(max((x - x0) / (x1 - x0) * size - 0.5, 0), size - 1)
            v = min(max((y - y0) / (y1 - y0) * size - 0.5, 0), size - 1)
            left, top = int(u), int(v)
            right, bottom = min(left + 1, size - 1), min(top + 1, size - 1)
            upper = patch[top, left] * (1 - (u - left)) + patch[top, right] * (u - left)
            lower = patch[bottom, left] * (1 - (u - left)) + patch[bottom, right] * (u - left)
            values[row, column] = upper * (1 - (v - top)) + lower * (v - top)
    return values


def painted(boxes, patches, shape):
    """Reference labels, and where a value is too near the threshold for rounding to agree."""
    labels, doubtful = np.zeros(shape, int), np.zeros(shape, bool)
    for label, (box, patch) in reversed(list(enumerate(zip(boxes, patches, strict=True), 1))):
        values = sampled(box, patch.astype(float), shape)
        labels[values >= THRESHOLD] = label
        doubtful |= np.abs(values - THRESHOLD) < 1e-3
    return labels, doubtful


edges = st.floats(-6, 22, width=32)
boxes_strategy = st.lists(st.tuples(edges, edges, edges, edges), max_size=4)


@settings(max_examples=150)
@given(boxes_strategy, st.integers(1, 17), st.integers(1, 17), st.data())
def test_paint_equals_the_rule(boxes, height, width, data):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    patches = data.draw(hnp.arrays(np.uint8, (len(boxes), 5, 5)))
    expected, doubtful = painted(boxes, patches, (height, width))
    labels = paint_labels(boxes, patches, (height, width))
    np.testing.assert_array_equal(labels[~doubtful], expected[~doubtful])


FULL = np.full((1, 56, 56), 255, np.uint8)


@pytest.mark.parametrize(
    ("box", "pixels"),
    [
        pytest.param((2, 3, 5, 7), (slice(3, 7), slice(2, 5)), id="whole-pixels"),
        pytest.param((2.4, 3, 5.6, 7), (slice(3, 7), slice(2, 6)), id="centres-inside"),
        pytest.param((2.6, 3, 5.4, 7), (slice(3, 7), slice(3, 5)), id="centres-outside"),
        pytest.param((2.5, 3.5, 4.5, 5.5), (slice(3, 5), slice(2, 4)), id="half-open"),
        pytest.param((-3, -2, 4, 3), (slice(0, 3), slice(0, 4)), id="out-top-left"),
        pytest.param((8, 6, 30, 30), (slice(6, 8), slice(8, 10)), id="out-bottom-right"),
        pytest.param((-5, -5, 50, 50), (slice(0, 8), slice(0, 10)), id="around-the-frame"),
        pytest.param((3, 3, 3, 6), (slice(0), slice(0)), id="no-width"),
        pytest.param((3, 3, 6, 3), (slice(0), slice(0)), id="no-height"),
        pytest.param((6, 3, 3, 6), (slice(0), slice(0)), id="turned-around"),
        pytest.param((40, 40, 50, 50), (slice(0), slice(0)), id="beyond-the-frame"),
        pytest.param((-9, -9, -1, -1), (slice(0), slice(0)), id="before-the-frame"),
        pytest.param((3.1, 3.1, 3.3, 3.3), (slice(0), slice(0)), id="between-centres"),
    ],
)
def test_pixels_of_a_full_patch(box, pixels):
    expected = np.zeros((8, 10), np.uint16)
    expected[pixels] = 1
    labels = paint_labels(np.array([box], np.float32), FULL, (8, 10))
    np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize(
    ("patch", "belongs"),
    [
        pytest.param([[127, 127], [127, 127]], False, id="127"),
        pytest.param([[128, 128], [128, 128]], True, id="128"),
        pytest.param([[0, 255], [0, 255]], True, id="127.5-across"),
        pytest.param([[0, 0], [255, 255]], True, id="127.5-down"),
        pytest.param([[0, 254], [0, 254]], False, id="127-across"),
    ],
)
def test_half_the_probability_belongs(patch, belongs):
    box = np.array([[2, 3, 3, 4]], np.float32)  # its one pixel samples the middle of the patch
    labels = paint_labels(box, np.array([patch], np.uint8), (6, 6))
    assert bool(labels[3, 2]) == belongs


def test_no_cells_paint_background():
    labels = paint_labels(np.empty((0, 4), np.float32), np.empty((0, 56, 56), np.uint8), (3, 4))
    assert labels.dtype == np.uint16
    assert labels.shape == (3, 4)
    assert not labels.any()


def test_earlier_cell_keeps_a_shared_pixel():
    boxes = np.array([[0, 0, 4, 4], [2, 0, 6, 4]], np.float32)
    labels = paint_labels(boxes, np.repeat(FULL, 2, axis=0), (4, 6))
    assert labels[0].tolist() == [1, 1, 1, 1, 2, 2]


def test_more_cells_than_uint16_holds():
    number = 65_536
    boxes = np.array([[0, 0, 1, 1], [1, 0, 2, 1]], np.float32)[[0] + [1] * (number - 1)]
    boxes[-1] = 2, 0, 3, 1
    labels = paint_labels(boxes, np.full((number, 1, 1), 255, np.uint8), (1, 3))
    assert labels.dtype == np.uint32
    assert labels[0].tolist() == [1, 2, number]


@pytest.mark.parametrize(
    ("boxes", "patches"),
    [
        pytest.param(np.zeros((2, 4)), np.zeros((1, 5, 5)), id="numbers-differ"),
        pytest.param(np.zeros((1, 5)), np.zeros((1, 5, 5)), id="boxes-of-5"),
        pytest.param(np.zeros((1, 4)), np.zeros((1, 5, 6)), id="not-square"),
        pytest.param(np.full((1, 4), np.nan), np.zeros((1, 5, 5)), id="nan"),
        pytest.param(np.full((1, 4), np.inf), np.zeros((1, 5, 5)), id="infinite"),
    ],
)
def test_bad_arguments(boxes, patches):
    with pytest.raises(ValueError, match=r"given: .*\. (Pass both|Leave such)"):
        paint_labels(boxes.astype(np.float32), patches.astype(np.uint8), (4, 4))


def many_cells(number, side):
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:56, :56] - 27.5
    disc = np.clip(255 * (1.2 - np.hypot(rows, columns) / 28), 0, 255).astype(np.uint8)
    centres, sizes = random.uniform(0, side, (number, 2)), random.uniform(10, 45, (number, 2))
    boxes = np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1)
    return boxes.astype(np.float32), np.repeat(disc[None], number, axis=0)


def test_two_thousand_cells_are_fast_and_small():
    boxes, patches = many_cells(2000, 2048)
    start = time.process_time()
    labels = paint_labels(boxes, patches, (2048, 2048))
    seconds = time.process_time() - start
    whole = labels == 7  # a mask of the frame's size, as others paint each cell
    place = partial(np.place, labels, whole, 7)
    one = min(timeit.repeat(place, timer=time.process_time, repeat=3, number=4)) / 4
    assert seconds < 2000 * one / 4
    assert len(np.unique(labels)) > 1900
    tracemalloc.start()
    paint_labels(boxes, patches, (2048, 2048))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2048 * 2048 * 2 + 2 * 2**20  # the label image and one cell


@pytest.mark.parametrize("seed", range(4))
def test_run_lengths_are_what_pycocotools_reads(seed):
    random = np.random.default_rng(seed)
    boxes = np.array([[-3, -2, 9, 30], [2, 0, 14, 23], [5, 5, 5, 9], [1, 2, 6, 9]], np.float32)
    patches = random.integers(0, 256, (4, 7, 7)).astype(np.uint8)
    patches[1] = 255  # down to the last row: runs that go on in the next column
    for region in regions(boxes, patches, (23, 17)):
        full = np.zeros((23, 17), np.uint8)
        full[region.rows, region.columns] = region.mask
        counts = run_lengths(region, full.shape)
        assert sum(counts) == full.size
        assert 0 not in counts[1:-1]
        run_length = coco_mask.frPyObjects({"size": [23, 17], "counts": counts}, 23, 17)
        np.testing.assert_array_equal(coco_mask.decode(run_length), full)


@pytest.mark.parametrize("size", [8, 30, 200])
def test_outline_encloses_the_pixels_of_the_mask(size):
    _, patches = many_cells(1, 100)
    box = np.array([[10.3, 5.7, 10.3 + size, 5.7 + 0.8 * size]], np.float32)
    (region,) = regions(box, patches, (256, 256))
    (outline,) = outlines(box, patches)
    x, y = np.meshgrid(
        np.arange(region.columns.start, region.columns.stop) + 0.5,
        np.arange(region.rows.start, region.rows.stop) + 0.5,
    )
    inside = [
        cv2.pointPolygonTest(outline, point, False) >= 0
        for point in zip(x.flat, y.flat, strict=True)
    ]
    differ = np.count_nonzero(np.reshape(inside, x.shape) != region.mask)
    assert differ <= 0.02 * np.count_nonzero(region.mask) + 1
    assert outline.dtype == np.float32
    assert outline.shape[1] == 2


def test_outline_of_an_empty_cell_is_empty():
    box = np.array([[1, 1, 5, 5], [3, 3, 3, 6]], np.float32)
    patches = np.stack([np.zeros((56, 56), np.uint8), FULL[0]])
    assert [len(outline) for outline in outlines(box, patches)] == [0, 0]
