"""The numbers of a request: settings, completed by the card."""

from __future__ import annotations

import numpy as np
import pytest

from cytoserve.codec import instances
from cytoserve.codec.cards import LearnedScale, ModelCard
from cytoserve.contract import MAX_TILE_OVERLAP, PIPELINES
from cytoserve.errors import FrameTooLarge, InvalidSetting
from cytoserve.operating_point import MAX_NETWORK_SIDE, operating_point
from cytoserve.settings import Settings

YOLO, MASKRCNN = PIPELINES["yolo"], PIPELINES["maskrcnn"]
SIZES = LearnedScale(network_scale=2.0, cell_diameter_px=30.0, largest_cell_px=50.0)
SILENT = ModelCard("yolo", ("cell",))
TRAINED = ModelCard("yolo", ("cell",), threshold=0.4, scale=SIZES)
MEASURED = ModelCard("yolo", ("cell",), scale=LearnedScale(2.0, 30.0, 50.0, pixel_size_um=0.5))
SEVERAL = ModelCard(
    "yolo", ("cell",), scale=LearnedScale(2.0, 30.0, 50.0, cell_diameters_px=(15.0, 90.0))
)
LARGE = ModelCard("yolo", ("cell",), scale=LearnedScale(1.0, 300.0, 900.0))


@pytest.mark.parametrize(
    ("settings", "card", "scale", "overlap", "threshold"),
    [
        pytest.param(Settings(), SILENT, 1, 128, 0.25, id="nothing-is-known"),
        pytest.param(Settings(scale=3), SILENT, 3, 128, 0.25, id="a-factor-of-an-unknown-scale"),
        pytest.param(Settings(), TRAINED, 2, 100, 0.4, id="as-trained"),
        pytest.param(Settings(0.1), TRAINED, 2, 100, 0.1, id="own-threshold"),
        pytest.param(Settings(scale=0.5), TRAINED, 1, 100, 0.4, id="half-the-scale"),
        pytest.param(Settings(cell_diameter_px=10), TRAINED, 6, 100, 0.4, id="small-cells"),
        pytest.param(Settings(cell_diameter_px=60), TRAINED, 1, 100, 0.4, id="large-cells"),
        pytest.param(Settings(cell_diameter_px=80), SEVERAL, 2, 100, 0.25, id="one-of-its-sizes"),
        pytest.param(Settings(cell_diameter_px=180), SEVERAL, 1, 100, 0.25, id="above-its-sizes"),
        pytest.param(Settings(cell_diameter_px=5), SEVERAL, 6, 100, 0.25, id="below-its-sizes"),
        pytest.param(Settings(pixel_size_um=0.5), MEASURED, 2, 100, 0.25, id="same-pixels"),
        pytest.param(Settings(pixel_size_um=1), MEASURED, 4, 100, 0.25, id="coarse-pixels"),
        pytest.param(Settings(pixel_size_um=0.1), MEASURED, 0.4, 100, 0.25, id="fine-pixels"),
        pytest.param(Settings(), LARGE, 1, MAX_TILE_OVERLAP, 0.25, id="cells-beyond-the-overlap"),
        pytest.param(Settings(scale="fit"), TRAINED, 6.4, 100, 0.4, id="fit"),
    ],
)
def test_settings_and_card_become_numbers_on_the_wire(settings, card, scale, overlap, threshold):
    frame = np.zeros((80, 100), np.uint8)
    point = operating_point(settings, card, frame.shape, YOLO)
    request = instances.encode_request(frame, YOLO, point)
    wanted = {
        "scale": scale,
        "tile_overlap": overlap,
        "score_threshold": threshold,
        "overlap_threshold": 0.6,
        "max_cells": 4096,
    }
    sent = {name: value.item() for name, value in request.inputs.items() if name != "image"}
    assert sent == pytest.approx(wanted)
    assert sent["scale"] == point.network_scale  # float32, so that tiles are counted alike
    assert sent["tile_overlap"] == point.tile_overlap
    learned = 1 if card.scale is None else card.scale.network_scale
    assert point.frame_scale == pytest.approx(scale / learned)


@pytest.mark.parametrize("card", [SILENT, TRAINED])
@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((640, 640), id="the-field"),
        pytest.param((1, 1), id="a-pixel"),
        pytest.param((77, 4001), id="wide"),
        pytest.param((4001, 77, 3), id="tall"),
        pytest.param((1, 20_000), id="a-line"),
        pytest.param((19_999, 19_997), id="a-slide"),
    ],
)
@pytest.mark.parametrize("pipeline", [YOLO, MASKRCNN], ids=lambda pipeline: pipeline.name)
def test_fit_brings_the_longer_side_to_the_field(card, shape, pipeline):
    point = operating_point(Settings(scale="fit"), card, shape, pipeline)
    assert round(max(shape) * point.network_scale) == pipeline.field
    assert point.tiles(shape, pipeline) == 1


@pytest.mark.parametrize(
    ("scale", "halo"),
    [pytest.param(1, 58, id="as-trained"), pytest.param(0.5, 108, id="cells-twice-as-large")],
)
def test_parts_of_a_frame_overlap_by_its_largest_cells(scale, halo):
    assert operating_point(Settings(scale=scale), TRAINED, (9, 9), YOLO).halo == halo


@pytest.mark.parametrize(
    ("settings", "card", "told"),
    [
        pytest.param(
            Settings(pixel_size_um=0.5), SILENT, "given: 0.5 for yolo", id="pixel-size-of-no-scale"
        ),
        pytest.param(
            Settings(pixel_size_um=0.5), TRAINED, "--cell-diameter", id="pixel-size-untold"
        ),
        pytest.param(
            Settings(cell_diameter_px=9), SILENT, r"\(scale, --scale\)", id="diameter-untold"
        ),
    ],
)
def test_sizes_without_any_to_compare_are_refused(settings, card, told):
    with pytest.raises(InvalidSetting, match=told):
        operating_point(settings, card, (9, 9), YOLO)


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        pytest.param(Settings(), (MAX_NETWORK_SIDE // 2 + 1, 9), id="height"),
        pytest.param(Settings(), (9, MAX_NETWORK_SIDE // 2 + 1, 3), id="width"),
        pytest.param(Settings(scale=200), (9, 82), id="large-scale"),
        pytest.param(Settings(cell_diameter_px=1e-4), (1, 1), id="tiny-cells"),
    ],
)
def test_a_frame_that_would_be_scaled_too_far_is_refused(settings, shape):
    told = r"at most 32,768 px; given: .* px at .* smaller scale \(--scale\).*\(--scale fit\)"
    with pytest.raises(FrameTooLarge, match=told):
        operating_point(settings, TRAINED, shape, YOLO)
    operating_point(Settings(), TRAINED, (MAX_NETWORK_SIDE // 2, 9), YOLO)
    operating_point(Settings(scale="fit"), TRAINED, shape, YOLO)
