"""Deaths are noticed within 3 s and mended within 20 s; what is no death is left alone."""

from __future__ import annotations

import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from cytoserve.contract import PIPELINES
from server.access import ServerAccess
from server.embedded import EmbeddedServer
from server.health_check import Canary, answered
from server.supervisor import Supervisor
from server.tritonserver import Worker, processor_seconds, workers_of

NO_KEYS = ServerAccess((), {})
NOTICED = 3.0
SERVING = 20.0


@pytest.fixture(scope="module")
def server(
    tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbeddedServer]:
    """A server that tests may kill, with a repository that they may break."""
    repository = tmp_path_factory.mktemp("killed") / "model_repository"
    shutil.copytree(tiny_repository, repository)
    wait_model = repository / "yolo_wait/1/model.py"
    wait_model.write_text(wait_model.read_text().replace(str(tiny_repository), str(repository)))
    with EmbeddedServer(repository, ["yolo"]) as server:
        yield server


def worker(triton: psutil.Process) -> psutil.Process:
    return workers_of(triton.pid)["yolo_cells_0_0"].process


def triton(process: psutil.Process) -> psutil.Process:
    return process


@pytest.mark.parametrize(
    ("victim", "number", "told"),
    [
        pytest.param(worker, signal.SIGKILL, "The worker of yolo_cells", id="worker killed"),
        pytest.param(worker, signal.SIGSTOP, "The worker of yolo_cells", id="worker stopped"),
        pytest.param(triton, signal.SIGKILL, "killed by SIGKILL", id="server killed"),
        pytest.param(triton, signal.SIGABRT, "killed by SIGABRT", id="server aborted"),
    ],
)
def test_death_is_noticed_and_mended(
    server: EmbeddedServer,
    call: Callable[[str], Any],
    triton_of: Callable[[EmbeddedServer], psutil.Process],
    wait_until: Callable[[Callable[[], bool], float], float],
    victim: Callable[[psutil.Process], psutil.Process],
    number: signal.Signals,
    told: str,
) -> None:
    before = len(server.output)
    victim(triton_of(server)).send_signal(number)
    wait_until(lambda: "Restarting" in server.output[before:], NOTICED)
    assert told in server.output[before:]
    errors = call(server.url).until_answered(SERVING)
    assert errors
    assert {error.status() for error in errors} == {"StatusCode.UNAVAILABLE"}
    wait_until(lambda: "Serving again" in server.output[before:], SERVING)


def test_errors_of_the_canary_are_a_death(
    server: EmbeddedServer,
    call: Callable[[str], Any],
    wait_until: Callable[[Callable[[], bool], float], float],
) -> None:
    before = len(server.output)
    broken = Path(server.repository) / "broken"
    broken.touch()
    try:
        # Not NOTICED: no process died, and after a canary that was slow the next one comes later.
        wait_until(lambda: "Restarting" in server.output[before:], SERVING)
        assert "The canary of yolo failed: " in server.output[before:]
        assert "upside down" in server.output[before:]
    finally:
        broken.unlink()
    call(server.url).until_answered(SERVING)
    wait_until(lambda: "Serving again" in server.output[before:], SERVING)


def test_a_repository_broken_meanwhile_is_tried_again_ever_more_slowly(
    server: EmbeddedServer,
    call: Callable[[str], Any],
    triton_of: Callable[[EmbeddedServer], psutil.Process],
    wait_until: Callable[[Callable[[], bool], float], float],
) -> None:
    before = len(server.output)
    model = Path(server.repository) / "yolo_cells/1/model.onnx"
    content = model.read_bytes()
    model.write_bytes(content[:20])
    triton_of(server).kill()

    def told(text: str) -> bool:
        return text in server.output[before:]

    wait_until(lambda: told("Model yolo_cells cannot be loaded: onnx runtime error 7"), SERVING)
    assert told("python -m export yolo")
    assert told("Restarting in 1 s, for it does not start")
    model.write_bytes(content)
    call(server.url).until_answered(2 * SERVING)
    wait_until(lambda: told("Serving again"), SERVING)


def test_a_long_request_is_no_death(server: EmbeddedServer, call: Callable[[str], Any]) -> None:
    before = len(server.output)
    assert call(server.url).request(wait=5.0) == 17
    assert server.output[before:] == ""


def test_a_worker_that_ends_just_before_they_are_listed_is_missed(
    shared_server: EmbeddedServer,
    triton_of: Callable[[EmbeddedServer], psutil.Process],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pid, stopping = triton_of(shared_server).pid, threading.Event()
    running: Any = SimpleNamespace(end=lambda: None, pid=pid)
    with subprocess.Popen(["sleep", "60"]) as process:
        ending = Worker(psutil.Process(process.pid), instance="yolo_cells_1_0", model="yolo_cells")

        listed = {**workers_of(pid), ending.instance: ending}

        def list_workers(server_pid: int) -> dict[str, Worker]:
            if ending.instance in listed:
                return {ending.instance: listed.pop(ending.instance), **listed}
            process.kill()
            process.wait()
            return workers_of(server_pid)

        monkeypatch.setattr("server.supervisor.workers_of", list_workers)
        monkeypatch.setattr("server.supervisor.POLLS_PER_LISTING", 2)
        supervisor = Supervisor(lambda: running, shared_server.url, NO_KEYS, [], print, stopping)
        supervisor.server = running
        threading.Timer(NOTICED, stopping.set).start()
        reason = supervisor.wait_for_death()
    assert reason == f"The worker of yolo_cells (pid {process.pid}) is dead or stopped"


@pytest.fixture
def land(
    wait_until: Callable[[Callable[[], bool], float], float],
) -> Callable[[Canary], None]:
    """Wait until the server has counted the canary that was sent, and leave it out of account."""

    def wait(canary: Canary) -> None:
        wait_until(lambda: answered(canary.client, canary.pipeline) > canary.count, SERVING)
        canary.count += 1
        canary.flying = False

    return wait


@pytest.fixture
def canary(
    shared_server: EmbeddedServer,
    settled: Callable[[Callable[[], int]], int],
    land: Callable[[Canary], None],
) -> Iterator[Canary]:
    """A canary of a pipeline that nobody else uses; one that a test sends ends before the next."""
    with closing(InferenceServerClient(shared_server.url)) as client:
        settled(lambda: answered(client, PIPELINES["yolo"]))
        canary = Canary(client, PIPELINES["yolo"])
        yield canary
        if canary.flying:
            land(canary)


@pytest.fixture
def answer_one(
    shared_server: EmbeddedServer,
    canary: Canary,
    call: Callable[[str], Any],
    wait_until: Callable[[Callable[[], bool], float], float],
) -> Callable[[], None]:
    """Have a request of somebody else answered."""

    def answer() -> None:
        call(shared_server.url).request()
        wait_until(lambda: answered(canary.client, canary.pipeline) > canary.count, 5)

    return answer


@pytest.mark.parametrize(
    ("statuses", "dead"),
    [
        pytest.param(["NOT_FOUND", "NOT_FOUND"], None, id="unloaded on purpose"),
        pytest.param(["UNAVAILABLE", "UNAVAILABLE"], None, id="queue full"),
        pytest.param(["INTERNAL"], None, id="one error"),
        pytest.param(["INTERNAL", None, "INTERNAL"], None, id="errors with an answer between"),
        pytest.param(["INTERNAL", "INTERNAL"], "The canary of yolo failed", id="two errors"),
        pytest.param(["DEADLINE_EXCEEDED"], "No request of yolo ended in 60 s", id="silence"),
    ],
)
def test_what_a_canary_means(canary: Canary, statuses: list[str | None], dead: str | None) -> None:
    for status in statuses:
        error = InferenceServerException("told", f"StatusCode.{status}") if status else None
        reason = canary.judge(error)
    assert (reason or "").startswith(dead or "")
    assert (reason is None) == (dead is None)


@pytest.fixture
def slow_canaries(monkeypatch: pytest.MonkeyPatch) -> float:
    """Canaries that take a second, five times as long as the least deadline."""
    seconds = 1.0
    slow = np.full((4, 4, 1), 1000 * seconds, np.uint16)
    monkeypatch.setattr("server.health_check.frame", lambda now: slow)
    monkeypatch.setattr("server.health_check.MIN_DEADLINE_S", seconds / 5)
    return seconds


def test_a_slow_network_comes_up_and_gets_its_time(
    shared_server: EmbeddedServer,
    slow_canaries: float,
    triton_of: Callable[[EmbeddedServer], psutil.Process],
) -> None:
    running: Any = SimpleNamespace(
        end=lambda: None, has_spoken=lambda: True, pid=triton_of(shared_server).pid
    )
    pipelines = [PIPELINES["yolo"]]
    stopping = threading.Event()
    supervisor = Supervisor(lambda: running, shared_server.url, NO_KEYS, pipelines, print, stopping)
    supervisor.start_and_wait()
    assert supervisor.canary_deadlines["yolo"] >= 10 * slow_canaries


def test_a_canary_has_its_own_deadline(
    canary: Canary,
    slow_canaries: float,
    land: Callable[[Canary], None],
    wait_until: Callable[[Callable[[], bool], float], float],
) -> None:
    hurried = Canary(canary.client, canary.pipeline, deadline=slow_canaries / 10)
    hurried.due = time.monotonic()
    reasons: list[str | None] = []

    def given_up() -> bool:
        reasons.append(hurried.failure())
        return reasons[-1] is not None

    assert wait_until(given_up, 5) < slow_canaries
    assert reasons[-1] == "No request of yolo ended in 0 s"
    land(hurried)  # the server works on, for nobody


def test_silence_of_the_canary_is_no_death_while_others_are_answered(
    canary: Canary, answer_one: Callable[[], None]
) -> None:
    answer_one()
    late = InferenceServerException("too late", "StatusCode.DEADLINE_EXCEEDED")
    assert canary.judge(late) is None


@pytest.mark.parametrize(
    ("seconds", "dead"),
    [
        pytest.param(45.0, False, id="a frame that takes minutes is worked on"),
        pytest.param(1.0, True, id="idle workers"),
    ],
)
def test_silence_while_workers_compute_is_no_death(
    canary: Canary, land: Callable[[Canary], None], seconds: float, dead: bool
) -> None:
    used = iter([100.0, 100.0 + seconds])
    asked: list[object] = []

    def worked(models: object) -> float:
        asked.append(models)
        return next(used)

    canary.worked, canary.due = worked, time.monotonic()
    canary.failure()
    land(canary)  # so that no answer is counted while it is judged
    late = InferenceServerException("too late", "StatusCode.DEADLINE_EXCEEDED")
    assert (canary.judge(late) is not None) == dead
    assert asked == [PIPELINES["yolo"].steps] * 2


def test_the_processor_time_of_workers_is_that_of_their_models() -> None:
    own = Worker(psutil.Process(), "yolo_cells_0_0", "yolo_cells")
    with subprocess.Popen(["true"]) as ended:
        gone = Worker(psutil.Process(ended.pid), "yolo_prepare_0_0", "yolo_prepare")
    before = processor_seconds([own, gone], {"yolo_cells", "yolo_prepare"})
    begun = time.process_time()
    while time.process_time() < begun + 0.2:
        pass
    assert processor_seconds([own, gone], {"yolo_cells", "yolo_prepare"}) >= before + 0.1
    assert processor_seconds([own, gone], {"yolo_prepare"}) == 0


def test_a_used_pipeline_gets_no_canary(canary: Canary, answer_one: Callable[[], None]) -> None:
    canary.due = time.monotonic()
    answer_one()
    canary.failure()
    assert not canary.flying


def test_an_idle_pipeline_gets_a_canary(canary: Canary) -> None:
    canary.due = time.monotonic()
    canary.failure()
    assert canary.flying
