"""Canaries fit every pipeline of the contract."""

from __future__ import annotations

import pytest

from cytoserve.contract import PIPELINES
from server.canary import VALUES, inputs


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
