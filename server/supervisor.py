"""Keep a server serving: notice its death through processes and canaries, and restart it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing

from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from cytoserve.contract import Pipeline
from server.access import ServerAccess, hide_arguments
from server.errors import StartError
from server.health_check import CALL_TIMEOUT_S, MIN_DEADLINE_S, Canary, first_answer
from server.tritonserver import TritonServer, Worker, can_work, processor_seconds, workers_of

POLL_S = 0.2
"""Seconds between two checks of the processes."""

POLLS_PER_LISTING = 10
"""Number of checks after which the list of workers is refreshed.

An administrator may load and unload models."""

START_TIMEOUT_S = 300.0
"""Seconds within which all models must load, and then each pipeline answer its first frame."""

MAX_PAUSE_S = 30.0
"""Maximum seconds between two starts of a server that does not come up."""

SHUTDOWN_TIMEOUT_S = 5.0
"""Maximum seconds that Triton itself needs to end when no request runs."""


class Supervisor:
    """Runs one server after another, at ``url`` (``host:port``), until ``stopping`` is set.

    ``start`` cleans up after the last server and starts a fresh one; ``tell`` prints a line for the
    operator. Call all methods from one thread: the server ends together with it.
    """

    def __init__(
        self,
        start: Callable[[], TritonServer],
        url: str,
        access: ServerAccess,
        pipelines: Sequence[Pipeline],
        tell: Callable[[str], None],
        stopping: threading.Event,
    ) -> None:
        self.start = start
        self.url = url
        self.access = access
        self.pipelines = pipelines
        self.tell = tell
        self.stopping = stopping
        self.server: TritonServer | None = None
        self.canary_deadlines: dict[str, float] = {}
        """Deadline of the canaries by pipeline, in seconds."""

    def start_and_wait(self) -> None:
        """Start a server and wait until every pipeline answers; raise `StartError` if one fails.

        Returns early if told to stop.
        """
        last, self.server = self.server, self.start()
        if last is not None:
            last.reap()
        with closing(self.access.client(self.url)) as client:
            self.wait_until_ready(self.server, client)
            for pipeline in self.pipelines:
                if self.stopping.is_set():
                    return
                try:
                    deadline = first_answer(client, pipeline, START_TIMEOUT_S)
                except InferenceServerException as error:
                    raise StartError(
                        f"Pipeline {pipeline.name} is loaded, but fails on a frame of 32 x 32 "
                        f"pixels: {error.message()}"
                    ) from error
                self.canary_deadlines[pipeline.name] = deadline

    def wait_until_ready(self, server: TritonServer, client: InferenceServerClient) -> None:
        """Wait until all models are loaded; raise `StartError` if that does not happen."""
        deadline, hidden = time.monotonic() + START_TIMEOUT_S, False
        while not self.stopping.wait(POLL_S):
            if end := server.end():
                raise StartError(self.explain(server, end))
            if not hidden and server.has_spoken():  # so it has read its flags
                hide_arguments(server.pid, self.access.headers.values())
                hidden = True
            if time.monotonic() > deadline:
                raise StartError(
                    f"tritonserver is not ready after {START_TIMEOUT_S:.0f} s. Its last words:\n"
                    + server.last_lines()
                )
            try:
                if client.is_server_ready(client_timeout=CALL_TIMEOUT_S):
                    return
            except InferenceServerException:  # it listens only when all is loaded
                continue

    def explain(self, server: TritonServer, end: str) -> str:
        """Say why a server that ended did not start, per model if its log tells that."""
        failures = server.load_failures()
        if not failures:
            return f"tritonserver {end}. Its last words:\n{server.last_lines()}"
        lines = [f"Model {model} cannot be loaded: {reason}" for model, reason in failures.items()]
        commands = ", ".join(f"python -m export {pipeline.name}" for pipeline in self.pipelines)
        return "\n".join([*lines, f"Export again what is broken: {commands}"])

    def watch(self) -> None:
        """Watch the running server, and restart it whenever it is dead, until told to stop."""
        pause = 0.0
        reason = self.wait_for_death()
        while reason is not None:
            again = f"in {pause:.0f} s, for it does not start" if pause else "now"
            self.tell(f"{reason}. Restarting {again}.")
            if self.stopping.wait(pause):
                return
            failure = self.restart()
            pause = min(max(1.0, 2 * pause), MAX_PAUSE_S) if failure else 0.0
            reason = failure or self.wait_for_death()

    def restart(self) -> str | None:
        """Start a server in place of a dead one; say why that failed, if it did."""
        begun = time.monotonic()
        try:
            self.start_and_wait()
        except StartError as error:
            return str(error)
        if not self.stopping.is_set():
            self.tell(f"Serving again after {time.monotonic() - begun:.1f} s.")
        return None

    def stop(self, timeout: float) -> None:
        """End the server; requests that run get ``timeout`` seconds to finish."""
        if self.server is None or self.server.end():
            return
        begun = time.monotonic()
        with closing(self.access.client(self.url)) as client:
            drain(client, self.pipelines, timeout)
        self.server.stop(timeout - (time.monotonic() - begun) + SHUTDOWN_TIMEOUT_S)

    def wait_for_death(self) -> str | None:
        """Say why the server is dead, once it is; None if told to stop before."""
        assert self.server is not None
        server, looks = self.server, 0
        workers = workers_of(server.pid)

        def worked(models: Collection[str]) -> float:
            return processor_seconds(workers.values(), models)

        with closing(self.access.client(self.url)) as client:
            canaries = [
                Canary(
                    client,
                    pipeline,
                    self.canary_deadlines.get(pipeline.name, MIN_DEADLINE_S),
                    worked,
                )
                for pipeline in self.pipelines
            ]
            while not self.stopping.wait(POLL_S):
                if end := server.end():
                    return f"tritonserver {end}"
                looks += 1
                # Listed before the known workers are checked: one that ends in between is in one of
                # the two lists.
                listed = workers_of(server.pid) if looks % POLLS_PER_LISTING == 0 else workers
                if lost := lost_worker(workers, server, client):
                    return f"The worker of {lost.model} (pid {lost.process.pid}) is dead or stopped"
                workers = listed
                for canary in canaries:
                    if reason := canary.failure():
                        return reason
        return None


def drain(client: InferenceServerClient, pipelines: Sequence[Pipeline], timeout: float) -> None:
    """Take no more requests and wait, up to ``timeout`` seconds, until the running ones end.

    When told to exit, Triton lets a running step finish but refuses the next step of the same
    pipeline. Unloading only the ensemble ends no request: it waits for the last one.
    """
    deadline = time.monotonic() + timeout
    try:
        for pipeline in pipelines:
            client.unload_model(pipeline.name, client_timeout=CALL_TIMEOUT_S)
        while time.monotonic() < deadline:
            index = client.get_model_repository_index(client_timeout=CALL_TIMEOUT_S).models
            if not any(model.state == "UNLOADING" for model in index):
                return
            time.sleep(POLL_S)
    except InferenceServerException:  # a server that does not answer has nothing to finish
        return


def lost_worker(
    workers: Mapping[str, Worker], server: TritonServer, client: InferenceServerClient
) -> Worker | None:
    """Return a worker that died although its model is still loaded and no other replaced it."""
    for worker in workers.values():
        if can_work(worker.process):
            continue
        if worker.instance not in workers_of(server.pid) and is_loaded(worker.model, client):
            return worker
    return None


def is_loaded(model: str, client: InferenceServerClient) -> bool:
    """Ask whether ``model`` is loaded; False if the server does not say."""
    try:
        return bool(client.is_model_ready(model, client_timeout=CALL_TIMEOUT_S))
    except InferenceServerException:
        return False
