"""Which steps of a request ran together, from durations made up and from the real server's."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.harness.serving import paused_supervisor
from benchmarks.harness.step_statistics import RequestSeconds, request_seconds
from cytoserve import Client


@pytest.mark.parametrize(
    ("total", "one", "other", "last", "together"),
    [
        pytest.param(1.0, 0.6, 0.3, 0.1, 0.0, id="in turn"),
        pytest.param(0.7, 0.6, 0.3, 0.1, 0.3, id="the shorter within the longer"),
        pytest.param(0.9, 0.6, 0.3, 0.1, 0.1, id="partly"),
        pytest.param(2.0, 0.6, 0.3, 0.1, 0.0, id="with waiting nothing is proven"),
        pytest.param(0.7, 0.6, 0.0, 0.1, 0.0, id="one from the response cache"),
    ],
)
def test_together(total, one, other, last, together):
    request = RequestSeconds(total, {"one": one, "other": other, "last": last})
    assert request.together("one", "other", after=["last"]) == pytest.approx(together)


@pytest.fixture(scope="module")
def frame():
    return np.random.default_rng(0).integers(0, 4096, (96, 128)).astype(np.uint16)


def test_steps_of_a_request(server, frame):
    with Client(server.url) as client, paused_supervisor(server):
        client.segment(frame, "yolo")  # the card is known from here on
        request = request_seconds(server.url, "yolo", lambda: client.segment(frame, "yolo"))
    assert set(request.steps) == {"yolo_prepare", "yolo_targets", "yolo_decode"}  # no labels
    assert min(request.steps.values()) > 0
    assert sum(request.steps.values()) < request.total  # each waits for the one before
    chain = ("yolo_prepare", "yolo_targets")
    assert request.together(*chain, after=["yolo_decode"]) == 0


@pytest.mark.parametrize("count", [0, 2])
def test_other_than_one_request_is_refused(server, frame, count, monkeypatch):
    monkeypatch.setattr("benchmarks.harness.step_statistics.SETTLE_TIMEOUT_S", 0.5)
    expected = pytest.raises(RuntimeError, match=f"counts {count}")
    with Client(server.url) as client, paused_supervisor(server), expected:
        client.foreground(frame, "nuclei_unet")  # the card is known from here on
        request_seconds(
            server.url,
            "nuclei_unet",
            lambda: [client.foreground(frame, "nuclei_unet") for _ in range(count)],
        )
