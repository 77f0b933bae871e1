"""One ``tritonserver`` child process, and its worker processes.

Triton starts one worker, a "stub", for every instance of a Python model.
"""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

LOAD_FAILURE = re.compile(r"failed to load '(?P<model>[^']+)' version \d+: (?P<reason>.*)\"$")
LAST_LINES = 10
LAST_THREADS_S = 5.0
"""Maximum seconds that an ending process may take: a killed one frees its memory first."""

IDLE_FOR_EVER = {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD, psutil.STATUS_STOPPED}
"""Process states in which a process will no longer answer by itself."""

STUB = "triton_python_backend_stub"


class TritonServer:
    """A started server. Its output goes to the file ``log``; it works in that file's folder."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                env=dict(environment),
                cwd=log.parent,  # Python workers import from the working folder first
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in the terminal is the launcher's to handle
            )

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self.process.pid

    def has_spoken(self) -> bool:
        """Tell whether the server has written a line of its log."""
        return self.log.stat().st_size > 0

    def end(self) -> str | None:
        """Say how the process ended, or None while it can work."""
        code = self.process.poll()
        if code is None:
            process = psutil.Process(self.pid)
            if can_work(process):
                return None
            if process.status() == psutil.STATUS_STOPPED:
                return "was stopped"
            # Its first thread is gone; how the process ended is known when the last one is gone.
            try:
                code = self.process.wait(LAST_THREADS_S)
            except subprocess.TimeoutExpired:
                return f"lost its first thread and has not ended within {LAST_THREADS_S:g} s"
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"

    def stop(self, timeout: float) -> None:
        """Let the server finish its requests and end; kill it after ``timeout`` seconds."""
        self.process.terminate()
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def reap(self) -> None:
        """Take the exit status of a killed server, so that it does not stay as a zombie."""
        self.process.wait()

    def load_failures(self) -> dict[str, str]:
        """Return model -> reason for each model that did not load."""
        found = (LOAD_FAILURE.search(line) for line in self.log_lines())
        return {match["model"]: plain(match["reason"]) for match in found if match}

    def last_lines(self) -> str:
        """Return what the server said last: its own summary, or else the end of its log."""
        lines = self.log_lines()
        return "\n".join(
            [line for line in lines if line.startswith("error:")] or lines[-LAST_LINES:]
        )

    def log_lines(self) -> list[str]:
        """Return the log so far, with paths below the working folder."""
        text = self.log.read_text(errors="replace")
        return text.replace(f"{self.log.parent}/", "").splitlines()


def plain(reason: str) -> str:
    """Cut the Python traceback and class name that a worker adds to its reason."""
    return reason.split(r"\n\nAt:")[0].replace("Internal: TritonModelException: ", "")


@dataclass(frozen=True)
class Worker:
    """One worker process and what it serves."""

    process: psutil.Process
    instance: str
    model: str


def workers_of(server_pid: int) -> dict[str, Worker]:
    """Return the server's workers that run now, by instance name."""
    try:
        children = psutil.Process(server_pid).children()
    except psutil.NoSuchProcess:
        return {}
    workers = (worker_from(child) for child in children if can_work(child))
    return {worker.instance: worker for worker in workers if worker is not None}


def processor_seconds(workers: Iterable[Worker], models: Collection[str]) -> float:
    """Processor seconds that the workers of the named models have used so far."""
    return sum(cpu_seconds(worker.process) for worker in workers if worker.model in models)


def cpu_seconds(process: psutil.Process) -> float:
    """Processor seconds of one process so far, system calls included; 0 when it has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0


def worker_from(process: psutil.Process) -> Worker | None:
    """Read from its command line which instance ``process`` serves; None for other programs."""
    try:
        command = process.cmdline()
    except psutil.Error:  # ended meanwhile
        return None
    if len(command) < 9 or Path(command[0]).name != STUB:
        return None
    # stub, <model>/<version>/<file>, memory name, two sizes, parent, library, handle, instance
    worker = Worker(process, instance=command[8], model=Path(command[1]).parents[1].name)
    # While a model loads, a worker of its bare name completes its configuration, then ends.
    return None if worker.instance == worker.model else worker


def can_work(process: psutil.Process) -> bool:
    """Tell whether ``process`` is there and not stopped."""
    try:
        return process.is_running() and process.status() not in IDLE_FOR_EVER
    except psutil.NoSuchProcess:
        return False
