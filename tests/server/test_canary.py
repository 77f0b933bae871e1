"""Canaries fit every pipeline of the contract, and now and then carry a frame not seen before."""

from __future__ import annotations

import numpy as np
import pytest

from cytoserve.codec import prompted
from cytoserve.contract import IMAGE, PIPELINES
from cytoserve.transport import Request
from server.canary import FRESH, VALUES, frame, inputs


@pytest.mark.parametrize("name", PIPELINES)
def test_a_canary_fits_the_contract(name: str) -> None:
    pipeline = PIPELINES[name]
    for tensor, given in zip(pipeline.inputs, inputs(pipeline), strict=True):
        dims = given.shape()
        assert (given.name(), given.datatype()) == (tensor.name, tensor.dtype)
        assert len(dims) == len(tensor.dims)
        assert all(dim in (-1, size) for dim, size in zip(tensor.dims, dims, strict=True))
    frame = VALUES[pipeline.inputs[0].name]
    assert frame.max() > frame.min()


def test_a_canary_prompts_by_one_click() -> None:
    sent, prompts = prompted.decode_request(Request("sam_prompt", VALUES, ()))
    assert prompts.point_labels.tolist() == [[1]]
    prompts.check_for(sent.shape[:2])
    assert not len(prompts.masks)


@pytest.mark.parametrize(
    ("later", "same"),
    [
        pytest.param(0.4 * FRESH, True, id="soon: the response cache is not filled up"),
        pytest.param(1.1 * FRESH, False, id="later: steps behind a response cache run again"),
    ],
)
def test_frames_of_canaries(later: float, same: bool) -> None:
    now = 10.2 * FRESH
    assert np.array_equal(frame(now), frame(now + later)) == same
    assert frame(now + later).max() == VALUES[IMAGE.name].max()
