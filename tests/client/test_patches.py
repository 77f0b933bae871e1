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
from skimage.measure import label as connected

from cytoserve.patches import (
    THRESHOLD,
    outlines,
    owned_regions,
    paint_labels,
    regions,
    run_lengths,
)


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
    """What cells own, by the words of the rule, from what they claim."""
    labels = np.zeros(shape, int)
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    claims = zip(boxes.astype(float), patches, regions(boxes, patches, shape), strict=True)
    for number, (box, patch, claim) in enumerate(claims, 1):
        mask = np.zeros(shape, bool)
        mask[claim.rows, claim.columns] = claim.mask
        pieces = connected(mask & (labels == 0), connectivity=2)
        areas = np.bincount(pieces.flat)[1:]
        if len(areas):
            piece = next(
                piece for piece in pieces.flat if piece and areas[piece - 1] == areas.max()
            )
            labels[pieces == piece] = number
        elif (patch >= THRESHOLD).any() and (labels == 0).any():
            x, y = np.clip((box[:2] + box[2:]) / 2, 0, shape[::-1])
            distances = np.where(labels == 0, np.hypot(rows - y, columns - x), np.inf)
            labels[np.unravel_index(distances.argmin(), shape)] = number
    return labels


edges = st.floats(-6, 22, width=32)
boxes_strategy = st.lists(st.tuples(edges, edges, edges, edges), max_size=6)


@settings(max_examples=150, deadline=None)
@given(boxes_strategy, st.integers(1, 17), st.integers(1, 17), st.data())
def test_claims_equal_the_rule(boxes, height, width, data):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    patches = data.draw(hnp.arrays(np.uint8, (len(boxes), 5, 5)))
    claims = regions(boxes, patches, (height, width))
    for box, patch, claim in zip(boxes, patches, claims, strict=True):
        values = sampled(box, patch.astype(float), (height, width))
        doubtful = np.abs(values - THRESHOLD) < 1e-3  # where rounding decides
        mask = np.zeros((height, width), bool)
        mask[claim.rows, claim.columns] = claim.mask
        np.testing.assert_array_equal(mask[~doubtful], (values >= THRESHOLD)[~doubtful])


@settings(max_examples=300, deadline=None)
@given(boxes_strategy, st.integers(1, 17), st.integers(1, 17), st.data())
def test_what_cells_own_equals_the_rule(boxes, height, width, data):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    patches = data.draw(hnp.arrays(np.uint8, (len(boxes), 5, 5)))
    labels = paint_labels(boxes, patches, (height, width))
    np.testing.assert_array_equal(labels, painted(boxes, patches, (height, width)))


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
        pytest.param((3, 3, 3, 6), (4, 2), id="no-width"),
        pytest.param((3.2, 3, 6, 3), (2, 4), id="no-height"),
        pytest.param((6, 3, 3, 6), (4, 4), id="turned-around"),
        pytest.param((40, 40, 50, 50), (7, 9), id="beyond-the-frame"),
        pytest.param((-9, -9, -1, -1), (0, 0), id="before-the-frame"),
        pytest.param((3.1, 3.1, 3.3, 3.3), (3, 3), id="between-centres"),
    ],
)
def test_pixels_of_a_full_patch(box, pixels):
    """A cell that claims none owns the pixel at the middle of its box."""
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
    (claim,) = regions(box, np.array([patch], np.uint8), (6, 6))
    assert claim.mask.tolist() == [[belongs]]


def test_no_cells_paint_background():
    labels = paint_labels(np.empty((0, 4), np.float32), np.empty((0, 56, 56), np.uint8), (3, 4))
    assert labels.dtype == np.uint16
    assert labels.shape == (3, 4)
    assert not labels.any()


SQUARE = ("####", "####", "####", "####")


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        pytest.param(
            [(0, 0, SQUARE), (2, 0, SQUARE)],
            ("111122", "111122", "111122", "111122"),
            id="the earlier keeps a shared pixel",
        ),
        pytest.param(
            [(0, 0, ("#.##", "#.##", "#.##", "#.##"))],
            ("..11..", "..11..", "..11..", "..11.."),
            id="the largest piece",
        ),
        pytest.param(
            [(0, 0, ("##..", "##..", "..##", "..##"))],
            ("11....", "11....", "..11..", "..11.."),
            id="corners join",
        ),
        pytest.param(
            [(0, 0, ("...#", "#..#", "#..#", "#..."))],
            ("...1..", "...1..", "...1..", "......"),
            id="of equal pieces the higher",
        ),
        pytest.param(
            [(0, 0, ("#..#", "#..#", "#..#", "#..#"))],
            ("1.....", "1.....", "1.....", "1....."),
            id="of equally high pieces the left one",
        ),
        pytest.param(
            [(0, 0, ("#..#", ".#.#", "#..#", ".#.."))],
            ("1.....", ".1....", "1.....", ".1...."),
            id="corners join the largest piece",
        ),
        pytest.param(
            [(2, 0, ("#...", "#...", "#...", "#...")), (0, 0, SQUARE)],
            ("221...", "221...", "221...", "221..."),
            id="an earlier cell cuts a piece off",
        ),
        pytest.param(
            [(0, 0, ("#.##", "#.##", "#.##", "#.##")), (0, 0, SQUARE)],
            ("2211..", "2211..", "2211..", "2211.."),
            id="a later cell takes the other piece",
        ),
        pytest.param(
            [(0, 0, ("####", "#..#", "#..#", "####")), (0, 0, SQUARE)],
            ("1111..", "1221..", "1221..", "1111.."),
            id="a cell in another one's hole",
        ),
        pytest.param(
            [(0, 0, SQUARE), (0, 0, SQUARE), (0, 0, SQUARE)],
            ("1111..", "11112.", "11113.", "1111.."),
            id="covered cells take the nearest free pixels",
        ),
        pytest.param(
            [(0, 0, ("....", "....", "....", "....")), (0, 0, SQUARE)],
            ("2222..", "2222..", "2222..", "2222.."),
            id="an empty patch owns nothing",
        ),
    ],
)
def test_a_pixel_has_one_owner_and_a_cell_one_piece(cells, expected):
    """Patches are 255 at every ``#``; their boxes have one pixel per place."""
    boxes = np.array([(x, y, x + 4, y + 4) for x, y, _ in cells], np.float32)
    patches = np.array([[list(row) for row in patch] for _, _, patch in cells]) == "#"
    labels = paint_labels(boxes, np.uint8(255) * patches, (4, 6))
    drawn = tuple("".join(".123"[label] for label in row) for row in labels.tolist())
    assert drawn == expected


def test_a_piece_in_the_hole_of_another_is_a_piece():
    patch = np.full((1, 5, 5), 255, np.uint8)
    patch[0, 1:4, 1:4] = 0
    patch[0, 2, 2] = 255
    labels = paint_labels(np.array([[0, 0, 5, 5]], np.float32), patch, (5, 5))
    assert (labels.sum(), labels[2, 2]) == (16, 0)


def test_more_cells_than_uint16_holds():
    number = 65_536
    left = np.arange(number, dtype=np.float32)
    boxes = np.stack([left, np.zeros(number), left + 1, np.ones(number)], axis=1)
    labels = paint_labels(
        boxes.astype(np.float32), np.full((number, 1, 1), 255, np.uint8), (1, number)
    )
    assert labels.dtype == np.uint32
    np.testing.assert_array_equal(labels[0], np.arange(1, number + 1))


def test_a_full_frame_has_no_pixel_for_more_cells():
    boxes = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 2, 1]], np.float32)
    labels = paint_labels(boxes, np.repeat(FULL, 3, axis=0), (1, 2))
    assert labels.tolist() == [[1, 2]]
    owned = list(owned_regions(boxes, labels))
    assert [region.mask.size for region in owned] == [1, 1, 0]
    polygons = list(outlines(boxes, np.repeat(FULL, 3, axis=0), labels))
    assert [len(polygon) for polygon in polygons] == [4, 4, 0]


def test_the_nearest_pixel_is_not_in_the_first_window():
    """A pixel of its corner is farther than one beyond its side."""
    patches = np.full((2, 21, 21), 255, np.uint8)
    patches[0, 14, 14] = patches[0, 10, 15] = 0
    boxes = np.array([[0, 0, 21, 21], [10, 10, 11, 11]], np.float32)
    labels = paint_labels(boxes, patches, (21, 21))
    assert np.argwhere(labels == 2).tolist() == [[10, 15]]


def test_a_far_pixel_is_found():
    """The nearest free pixel is outside of the first windows that are searched."""
    boxes = np.array([[0, 0, 90, 60], [0, 0, 80, 60]], np.float32)
    labels = paint_labels(boxes, np.repeat(FULL, 2, axis=0), (60, 100))
    assert np.argwhere(labels == 2).tolist() == [[29, 90]]
    assert [region.columns.start for region in owned_regions(boxes, labels)] == [0, 90]


@settings(max_examples=150, deadline=None)
@given(boxes_strategy, st.integers(1, 17), st.integers(1, 17), st.data())
def test_regions_have_the_pixels_of_the_labels(boxes, height, width, data):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    patches = data.draw(hnp.arrays(np.uint8, (len(boxes), 5, 5)))
    labels = paint_labels(boxes, patches, (height, width))
    for number, region in enumerate(owned_regions(boxes, labels), 1):
        again = np.zeros((height, width), bool)
        again[region.rows, region.columns] = region.mask
        np.testing.assert_array_equal(again, labels == number)
        assert all(region.mask.any(axis=axis).all() for axis in (0, 1))  # no empty row or column


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


def inside(outline, shape):
    """Bool ``[H, W]``: the pixels whose centre an outline encloses."""
    return np.array(
        [
            [cv2.pointPolygonTest(outline, (x + 0.5, y + 0.5), False) >= 0 for x in range(shape[1])]
            for y in range(shape[0])
        ]
    )


@pytest.mark.parametrize("size", [8, 30, 200])
def test_outline_encloses_the_pixels_of_the_cell(size):
    _, patches = many_cells(1, 100)
    box = np.array([[10.3, 5.7, 10.3 + size, 5.7 + 0.8 * size]], np.float32)
    labels = paint_labels(box, patches, (256, 256))
    (outline,) = outlines(box, patches, labels)
    area = np.count_nonzero(labels)
    assert np.count_nonzero(inside(outline, labels.shape) != (labels == 1)) <= 0.02 * area + 1
    assert outline.dtype == np.float32
    assert outline.shape[1] == 2


@pytest.mark.parametrize("size", [20, 45, 150])
def test_outlines_of_neighbours_share_their_border(size):
    """The area is that of the pixels, within a few percent and a pixel of outline."""
    _, patches = many_cells(3, 100)
    left = np.array([0, 0.6 * size, 0.3 * size]) + 5.2
    top = np.array([0, 0.1 * size, 0.6 * size]) + 3.7
    boxes = np.stack([left, top, left + size, top + size], axis=1).astype(np.float32)
    labels = paint_labels(boxes, patches, (256, 256))
    for number, outline in enumerate(outlines(boxes, patches, labels), 1):
        owned = labels == number
        area = np.count_nonzero(owned)
        assert cv2.contourArea(outline) == pytest.approx(
            area, rel=0.03, abs=cv2.arcLength(outline, True) / 4
        )
        taken = (labels > 0) & ~owned
        assert np.count_nonzero(inside(outline, labels.shape) & taken) <= 0.01 * area + 1


@pytest.mark.parametrize(
    ("box", "shape"),
    [
        pytest.param((-20, -10, 30, 30), (60, 60), id="top-left"),
        pytest.param((40, 35, 80, 80), (60, 60), id="bottom-right"),
        pytest.param((-9, -9, 70, 70), (60, 60), id="all of it"),
    ],
)
def test_outlines_stay_in_the_frame(box, shape):
    _, patches = many_cells(1, 100)
    boxes = np.array([box], np.float32)
    (outline,) = outlines(boxes, patches, paint_labels(boxes, patches, shape))
    assert outline.min() >= 0
    assert (outline.max(axis=0) <= shape[::-1]).all()


@pytest.mark.parametrize(
    ("patch", "pixels", "area"),
    [
        pytest.param(("....", ".#..", "....", "...."), 1, 1, id="one pixel"),
        pytest.param(("####", "....", "....", "...."), 4, 4, id="a line"),
        pytest.param(("##..", "##..", "..##", "..##"), 8, 8, id="joined by a corner"),
        pytest.param(("#...", ".#..", "..#.", "...#"), 4, 4, id="a diagonal"),
        pytest.param(("...#", "###.", "###.", "###."), 10, 10, id="a small part at a corner"),
        pytest.param(("####", "#..#", "#..#", "####"), 12, 16, id="a ring, without its hole"),
    ],
)
@pytest.mark.parametrize("value", [128, 160, 255])
def test_a_cell_with_a_pixel_has_an_outline(patch, pixels, area, value):
    box = np.array([[3, 2, 7, 6]], np.float32)
    patches = np.array([[[value * (place == "#") for place in row] for row in patch]], np.uint8)
    labels = paint_labels(box, patches, (9, 9))
    assert np.count_nonzero(labels) == pixels
    (outline,) = outlines(box, patches, labels)
    assert len(outline) >= 3
    assert inside(outline, labels.shape)[labels == 1].all()
    assert cv2.contourArea(outline) == pytest.approx(area, rel=0.5)


def test_of_a_cell_in_pieces_the_largest_has_the_outline():
    """An older server may paint such a label image."""
    labels = np.zeros((20, 20), np.uint16)
    labels[2:4, 2:4] = labels[10:18, 10:18] = 1
    box = np.array([[0, 0, 20, 20]], np.float32)
    (outline,) = outlines(box, FULL, labels)
    assert outline.min() > 9
