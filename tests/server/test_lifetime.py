"""However the launcher ends, nothing of it stays; told to stop, it lets requests finish."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from tritonclient.utils import InferenceServerException

from server.cleanup import RUN_VARIABLE, SHARED_MEMORY, clean_up, processes_of
from server.embedded import EmbeddedServer
from server.errors import StartError

WaitUntil = Callable[[Callable[[], bool], float], float]


def run_id_of(server: EmbeddedServer, triton_of: Callable[..., psutil.Process]) -> str:
    return triton_of(server).environ()[RUN_VARIABLE]


def remains(run_id: str) -> list[str]:
    """What is left of a run: processes, shared memory, folders."""
    found = [f"pid {pid}" for pid in processes_of(run_id)]
    for folder in (SHARED_MEMORY, Path(tempfile.gettempdir())):
        found += [str(path) for path in folder.glob(f"{run_id}*")]
    return found


@pytest.mark.parametrize(
    "watched",
    [
        pytest.param(True, id="with its watcher"),
        pytest.param(False, id="its watcher killed before"),
    ],
)
def test_a_killed_launcher_leaves_nothing_that_runs(
    tiny_repository: Path,
    call: Callable[[str], Any],
    wait_until: WaitUntil,
    triton_of: Callable[[EmbeddedServer], psutil.Process],
    watched: bool,
) -> None:
    with EmbeddedServer(tiny_repository, ["yolo"]) as server, ThreadPoolExecutor() as pool:
        run_id = run_id_of(server, triton_of)
        assert len(list(processes_of(run_id))) == 4  # the server and three workers
        if not watched:
            [watcher] = [p for p in psutil.Process(server.pid).children() if run_id in p.cmdline()]
            watcher.kill()
        running = pool.submit(call(server.url).request, 2.0)
        os.kill(server.pid, signal.SIGKILL)
        if watched:
            wait_until(lambda: not remains(run_id), 10)
        else:
            wait_until(lambda: not list(processes_of(run_id)), 10)
            clean_up(run_id, next(Path(tempfile.gettempdir()).glob(f"{run_id}*")))
        assert isinstance(running.exception(10), InferenceServerException)


START_AND_WAIT = """
import sys, time
from pathlib import Path
from server.embedded import EmbeddedServer
server = EmbeddedServer(Path(sys.argv[1]), ["yolo"])
server.start()
print(server.pid, flush=True)
time.sleep(600)
"""


def test_an_embedded_server_ends_with_the_program_that_started_it(
    tiny_repository: Path,
    wait_until: WaitUntil,
    triton_of: Callable[..., psutil.Process],
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", START_AND_WAIT, tiny_repository], stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        launcher = psutil.Process(int(program.stdout.readline()))
        run_id = triton_of(launcher).environ()[RUN_VARIABLE]
        program.kill()
    wait_until(lambda: ended(launcher) and not remains(run_id), 15)


def ended(process: psutil.Process) -> bool:
    """Whether a process that is not our child has ended; nobody may have reaped it yet."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_sigterm_lets_running_requests_finish(
    tiny_repository: Path,
    call: Callable[[str], Any],
    wait_until: WaitUntil,
    triton_of: Callable[[EmbeddedServer], psutil.Process],
) -> None:
    with EmbeddedServer(tiny_repository, ["yolo"]) as server, ThreadPoolExecutor() as pool:
        run_id = run_id_of(server, triton_of)
        caller = call(server.url)
        # One runs in the first step, one waits for it; both have a second step before them.
        running = [pool.submit(caller.request, 1.0) for _ in range(2)]
        wait_until(lambda: requests_begun(caller) >= 1, 5)
        os.kill(server.pid, signal.SIGTERM)
        assert [request.result(10) for request in running] == [17, 17]
        assert server.process.wait(15) == 0
        assert remains(run_id) == []


def requests_begun(caller: Any) -> int:
    """How many requests the first step has been given or has answered."""
    statistics = caller.client.get_inference_statistics("yolo_wait").model_stats[0]
    return int(statistics.inference_stats.queue.count + statistics.inference_count)


def test_clean_up_ends_its_own_run_only(tmp_path: Path) -> None:
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    mine, other = (
        subprocess.Popen(sleep, env={RUN_VARIABLE: name}) for name in ("cytoserve-a", "cytoserve-b")
    )
    folder = tmp_path / "run"
    folder.mkdir()
    segment = SHARED_MEMORY / "cytoserve-a-segment"
    segment.touch()
    try:
        clean_up("cytoserve-a", folder)
        assert mine.wait(5) == -signal.SIGKILL
        assert other.poll() is None
        assert not folder.exists()
        assert not segment.exists()
    finally:
        other.kill()
        other.wait()


def test_embedded_server_tells_why_it_did_not_start(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"(?s)did not become ready:.*There is nothing to serve"):
        EmbeddedServer(tmp_path, ["yolo"]).start()


def test_variables_reach_the_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # from where PYTHONPATH alone leads to `server`
    server = EmbeddedServer(tmp_path, ["yolo"], variables={"PYTHONPATH": ""})
    with pytest.raises(StartError, match="No module named server"):
        server.start()


def test_only_its_user_reads_what_is_in_shared_memory(
    tiny_repository: Path,
    call: Callable[[str], Any],
    wait_until: WaitUntil,
    triton_of: Callable[[EmbeddedServer], psutil.Process],
) -> None:
    """Triton's workers make their segments readable for all, also those of a restarted server."""
    with EmbeddedServer(tiny_repository, ["yolo"]) as server:
        run_id = run_id_of(server, triton_of)

        def modes() -> set[int]:
            segments = SHARED_MEMORY.glob(f"{run_id}*")
            return {stat.S_IMODE(segment.stat().st_mode) for segment in segments}

        wait_until(lambda: modes() == {0o600}, 30.0)
        assert call(server.url).request() == 17
        assert modes() == {0o600}
        triton_of(server).kill()
        wait_until(lambda: "Serving again" in server.output, 60.0)
        wait_until(lambda: modes() == {0o600}, 30.0)
