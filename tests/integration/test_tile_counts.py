"""The client counts the tiles of a frame as the exported steps cut them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cytoserve.codec.cards import LearnedScale, ModelCard
from cytoserve.contract import MAX_TILE_OVERLAP, PIPELINES, Pipeline
from cytoserve.operating_point import OperatingPoint, operating_point
from cytoserve.settings import Settings
from training.preprocessing.cutting import FrameTiles, NetworkTiles, tile_starts

YOLO, MASKRCNN = PIPELINES["yolo"], PIPELINES["maskrcnn"]
SIZE = 64
"""Field of the small networks here, in network pixels."""


def point_of(
    scale: float, overlap: float, shape: tuple[int, int], kind: Pipeline
) -> OperatingPoint:
    learned = LearnedScale(network_scale=scale, cell_diameter_px=9, largest_cell_px=overlap / scale)
    return operating_point(Settings(), ModelCard(kind.name, ("cell",), scale=learned), shape, kind)


def wire(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float32)


@pytest.mark.parametrize("overlap", [1, 16, 31.7, 32, 100])
@pytest.mark.parametrize("scale", [0.3, 0.5, 1.0, 1.37, 2.0])
@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((1, 1), id="a pixel"),
        pytest.param((64, 64), id="the field"),
        pytest.param((64, 65), id="one column more"),
        pytest.param((128, 127), id="the field at half the scale"),
        pytest.param((300, 20), id="tall"),
        pytest.param((111, 222), id="wide"),
    ],
)
def test_as_many_tiles_as_the_steps_cut(
    shape: tuple[int, int], scale: float, overlap: float
) -> None:
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 99, (*shape, 1)).astype(np.int32))
    for module, kind in ((NetworkTiles(SIZE), YOLO), (FrameTiles(SIZE), MASKRCNN)):
        small = replace(kind, field=SIZE)
        point = point_of(scale, overlap, shape, small)
        tiles = module(image, wire(point.network_scale), wire(point.tile_overlap))[0]
        assert point.tiles(shape, small) == len(tiles)


@settings(max_examples=500, deadline=None)
@given(
    st.tuples(st.integers(1, 20_000), st.integers(1, 20_000)),
    st.floats(0.01, 1.6),
    st.floats(1, 600),
    st.sampled_from([YOLO, MASKRCNN]),
)
def test_as_many_tiles_of_large_frames(
    shape: tuple[int, int], scale: float, overlap: float, kind: Pipeline
) -> None:
    point = point_of(scale, overlap, shape, kind)
    clamped = torch.clamp(
        wire(point.tile_overlap).double(), 0, min(MAX_TILE_OVERLAP, kind.field // 2)
    )[0]
    counts = [
        len(tile_starts(torch.tensor(side), wire(point.network_scale), clamped, kind.field)[1])
        for side in shape
    ]
    assert point.tiles(shape, kind) == counts[0] * counts[1]
