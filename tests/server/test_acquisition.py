"""The analyzer of running acquisitions against the real server: killed, stopped, and too slow."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from tritonclient.grpc import InferenceServerClient

from cytoserve.acquisition import FrameAnalyzer
from server.embedded import EmbeddedServer

FAST = np.zeros((64, 64), np.uint16)
WAIT_S = 0.3
SLOW = np.full((64, 64), WAIT_S * 1000, np.uint16)
"""The tiny `yolo` waits as many milliseconds as the darkest pixel says."""

SERVING = 20.0


@pytest.fixture(scope="module")
def server(
    tiny_repository: Path,
) -> Iterator[EmbeddedServer]:
    """A server that tests may kill and stop."""
    with EmbeddedServer(tiny_repository, ["yolo"]) as server:
        yield server


def answered(analyzer: FrameAnalyzer) -> bool:
    return analyzer.submit(FAST).result(SERVING).answered


def executions(url: str) -> int:
    with InferenceServerClient(url) as client:
        statistics = client.get_inference_statistics("yolo_wait")
    return int(statistics.model_stats[0].execution_count)


def test_the_same_analyzer_goes_on_after_the_server_was_killed(
    server: EmbeddedServer,
    triton_of: Callable[[EmbeddedServer], psutil.Process],
    wait_until: Callable[[Callable[[], bool], float], float],
) -> None:
    with FrameAnalyzer(server.url, "yolo", deadline=5) as analyzer:
        analyzer.warm_up(FAST.shape)
        assert answered(analyzer)
        triton_of(server).kill()
        wait_until(lambda: not answered(analyzer), SERVING)
        wait_until(lambda: answered(analyzer), SERVING)
        assert analyzer.statistics().failed


def test_a_stopped_server_makes_frames_late_and_then_goes_on(
    server: EmbeddedServer, wait_until: Callable[[Callable[[], bool], float], float]
) -> None:
    launcher = psutil.Process(server.pid)
    processes = [launcher, *launcher.children(recursive=True)]  # first who would restart the others
    with FrameAnalyzer(server.url, "yolo", deadline=0.3) as analyzer:
        wait_until(lambda: answered(analyzer), SERVING)
        try:
            for process in processes:
                process.send_signal(signal.SIGSTOP)
            results = [analyzer.submit(FAST).result(SERVING) for _ in range(3)]
        finally:
            for process in reversed(processes):
                process.send_signal(signal.SIGCONT)
        assert [result.status for result in results] == ["late"] * 3
        wait_until(lambda: answered(analyzer), SERVING)


def test_late_requests_do_not_pile_up_on_a_slow_server(server: EmbeddedServer) -> None:
    """Twenty frames per second, of which the server can do three, and none within the deadline."""
    with FrameAnalyzer(server.url, "yolo", deadline=10) as patient:
        patient.warm_up(FAST.shape)
        with FrameAnalyzer(server.url, "yolo", deadline=WAIT_S / 3) as hasty:
            hasty.warm_up(FAST.shape)
            end = time.monotonic() + 3
            while time.monotonic() < end:
                hasty.submit(SLOW)
                time.sleep(0.05)
            before = executions(server.url)
            assert answered(patient)
            # One frame, one look for the server, the patient's frame, and a canary or two.
            assert executions(server.url) - before <= 5
            assert hasty.statistics().late
