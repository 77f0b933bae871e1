"""What a foreground says of itself, and what it is measured by."""

from __future__ import annotations

import math

import numpy as np
import pytest
from skimage.measure import label, regionprops

from cytoserve import Foreground, InvalidSetting
from cytoserve.foreground import foreground_mask
from cytoserve.measurements import MEASUREMENTS


def plain(mask, **named):
    probability = np.uint8(200) * np.asarray(mask, np.uint8)
    return Foreground.from_probability(probability, **named)


def test_words_and_numbers(foreground):
    assert repr(foreground) == "<Foreground 'nuclei' 16.5 % of 60 x 80 px at 0.5, 3 centres>"
    assert foreground.frame_shape == (60, 80)
    covered = int((foreground.probability >= 128).sum())
    assert foreground.area_fraction == covered / 4800
    assert foreground.confluency == 100 * foreground.area_fraction
    assert foreground.summary() == {
        "area_fraction": covered / 4800,
        "confluency": 100 * (covered / 4800),
        "components": 3,
        "nuclei": 3,
    }


@pytest.mark.parametrize("name", ["probability", "mask", "centres", "centre_scores"])
def test_arrays_are_read_only_and_the_callers_are_not(foreground, name):
    with pytest.raises(ValueError, match="read-only"):
        getattr(foreground, name)[:] = 0
    with pytest.raises(AttributeError):
        foreground.threshold = 0.1
    mine = np.zeros((2, 2), np.uint8)
    Foreground.from_probability(mine)
    mine[0] = 1


def test_no_centres_is_not_zero_centres(foreground):
    without = Foreground.from_probability(foreground.probability)
    none = Foreground.from_probability(
        foreground.probability,
        centres=np.empty((0, 2), np.float32),
        centre_scores=np.empty(0, np.float32),
    )
    assert (without.summary()["nuclei"], none.summary()["nuclei"]) == (None, 0)
    assert "centres" not in without.table()
    assert none.table()["centres"].tolist() == [0, 0, 0]
    assert "centres" not in repr(without)
    assert "0 centres" in repr(none)


@pytest.mark.parametrize("threshold", [0, 1e-9, 0.2, 0.3, 1 / 3, 0.5, 0.6, 100 / 255, 0.999, 1])
def test_the_mask_rule(threshold):
    values = np.arange(256, dtype=np.uint8)
    expected = values.astype(np.float32) >= np.float32(threshold) * np.float32(255)
    np.testing.assert_array_equal(foreground_mask(values, threshold), expected)
    assert foreground_mask(values, 0).all()
    assert foreground_mask(values, 1).sum() == 1


def test_another_threshold_needs_no_server(foreground):
    higher = foreground.with_threshold(0.75)
    np.testing.assert_array_equal(higher.mask, foreground.probability >= 192)
    assert higher.threshold == 0.75
    np.testing.assert_allclose(higher.centre_scores, [0.9, 0.8])
    np.testing.assert_array_equal(higher.centres, foreground.centres[:2])
    without = Foreground.from_probability(foreground.probability)
    assert without.with_threshold(0.05).area_fraction == 1
    for odd in (-0.1, 1.1, math.nan):
        for found in (foreground, without):
            with pytest.raises(InvalidSetting, match=r"to 1; given: .*\. Choose one of them\.$"):
                found.with_threshold(odd)


def test_centres_that_were_never_answered_are_not_made_up(foreground):
    with pytest.raises(InvalidSetting, match=r"from 0.5 to 1; given: 0.4.*ask the server"):
        foreground.with_threshold(0.4)


@pytest.mark.parametrize(
    ("mask", "components"),
    [
        pytest.param(np.zeros((4, 5)), 0, id="all-black"),
        pytest.param(np.ones((4, 5)), 1, id="all-white"),
        pytest.param(np.ones((1, 1)), 1, id="1x1"),
        pytest.param([[1], [0], [1]], 2, id="1-pixel-wide"),
        pytest.param([[1, 0], [0, 1]], 1, id="corners-connect"),
        pytest.param([[1, 0, 1], [0, 0, 0], [1, 0, 1]], 4, id="four"),
        pytest.param([[1, 1, 1], [1, 0, 1], [1, 1, 1]], 1, id="ring"),
    ],
)
def test_components_and_labels_agree(mask, components):
    found = plain(mask)
    regions, labels = list(found.components()), found.label_image()
    assert len(regions) == labels.max() == found.summary()["components"] == components
    assert labels.dtype == np.uint16
    np.testing.assert_array_equal(labels != 0, found.mask)
    for number, region in enumerate(regions, 1):
        np.testing.assert_array_equal(region.mask, labels[region.rows, region.columns] == number)
        assert region.mask.sum() == (labels == number).sum()
        assert region.mask.any(axis=1).all()  # the box fits
    starts = [(region.rows.start, region.columns.start) for region in regions]
    assert starts == sorted(starts)
    assert len(found.table()["label"]) == components


def test_many_components_need_wider_labels():
    mask = np.zeros((514, 514))
    mask[::2, ::2] = 1
    labels = plain(mask).label_image()
    assert (labels.dtype, labels.max()) == (np.uint32, 257**2)


def test_table_measures_as_scikit_image_does(foreground):
    table = foreground.table()
    assert list(table) == ["label", "class", "mean_probability", "centres", *MEASUREMENTS]
    assert table["class"].tolist() == ["nuclei"] * 3
    assert table["centres"].tolist() == [2, 1, 0]
    properties = regionprops(label(foreground.mask), intensity_image=foreground.probability / 255)
    properties.sort(key=lambda each: each.bbox[:2])
    for row, each in enumerate(properties):
        assert table["area"][row] == each.area
        assert table["mean_probability"][row] == pytest.approx(each.intensity_mean)
        assert [table[f"bbox-{i}"][row] for i in range(4)] == list(each.bbox)
        assert table["centroid-0"][row] == pytest.approx(each.centroid[0])
        assert table["axis_major_length"][row] == pytest.approx(each.axis_major_length, abs=0.3)


def test_a_centre_on_the_far_edge_lies_in_the_last_pixel():
    found = plain(
        np.ones((3, 4)),
        centres=np.array([[4, 3]], np.float32),
        centre_scores=np.ones(1, np.float32),
    )
    assert found.table()["centres"].tolist() == [1]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param({"mask": np.zeros((2, 3), bool)}, "same size", id="mask"),
        pytest.param({"probability": np.zeros((2, 2, 1), np.uint8)}, r"\[H, W\]", id="rank"),
        pytest.param({"centres": np.zeros((0, 2), np.float32)}, "come together", id="centres"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change, told):
    given = {
        "probability": np.zeros((2, 2), np.uint8),
        "mask": np.zeros((2, 2), bool),
        "class_name": "a",
        "threshold": 0.5,
    }
    with pytest.raises(ValueError, match=told):
        Foreground(**(given | change))
