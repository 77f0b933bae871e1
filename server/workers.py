"""The worker processes of a server: one "stub" for every instance of a Python model."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

IDLE_FOR_EVER = {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD, psutil.STATUS_STOPPED}
"""Process states in which a process will no longer answer by itself."""

STUB = "triton_python_backend_stub"


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
