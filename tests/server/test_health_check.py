"""Canaries fit every pipeline of the contract, and now and then carry a frame not seen before."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

from cytoserve.codec import prompted
from cytoserve.contract import IMAGE, PIPELINES
from cytoserve.transport import Request
from server import health_check
from server.health_check import (
    FRAME_LIFETIME_S,
    MAX_CANARY_TIME_SHARE,
    MIN_INTERVAL_S,
    VALUES,
    Canary,
    frame,
    inputs,
)


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
        pytest.param(0.4 * FRAME_LIFETIME_S, True, id="soon: the response cache is not filled up"),
        pytest.param(1.1 * FRAME_LIFETIME_S, False, id="later: cached steps run again"),
    ],
)
def test_frames_of_canaries(later: float, same: bool) -> None:
    now = 10.2 * FRAME_LIFETIME_S
    assert np.array_equal(frame(now), frame(now + later)) == same
    assert frame(now + later).max() == VALUES[IMAGE.name].max()


class Clock:
    """Stands in for the clock, and for a server that answers when it is told to."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now

    def get_inference_statistics(self, *_: object, **__: object) -> object:
        counts = SimpleNamespace(success=SimpleNamespace(count=7))
        return SimpleNamespace(model_stats=[SimpleNamespace(inference_stats=counts)])

    def async_infer(self, name: str, tensors: object, callback: Callable[..., None], **_: object):
        self.callback = callback


@pytest.mark.parametrize(
    ("seconds", "pause"),
    [
        pytest.param(0.05, MIN_INTERVAL_S, id="a fast network"),
        pytest.param(3.0, 3.0 / MAX_CANARY_TIME_SHARE, id="a slow one is not kept busy"),
    ],
)
def test_canaries_take_a_small_share_of_the_time(
    monkeypatch: pytest.MonkeyPatch, seconds: float, pause: float
) -> None:
    clock = Clock()
    monkeypatch.setattr(health_check, "time", clock)
    watch = Canary(clock, PIPELINES["maskrcnn"])
    clock.now += MIN_INTERVAL_S
    watch.failure()
    assert watch.flying
    clock.now += seconds
    clock.callback(None, None)
    watch.failure()
    clock.now += pause - 0.1
    watch.failure()
    assert not watch.flying
    clock.now += 0.2
    watch.failure()
    assert watch.flying
