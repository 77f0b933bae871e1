"""What the server did between two moments: batches by its own statistics, and processor time."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psutil
import tritonclient.grpc as triton

from benchmarks.harness.step_statistics import served_steps
from cytoserve.contract import STEPS
from server.workers import cpu_seconds, worker_from

TRITON = "tritonserver"
"""All of a server's processes but the workers of its steps: where the wire ends, and where tensors
are copied from worker to worker."""


@dataclass(frozen=True)
class StepCount:
    """Cumulative statistics of one network step."""

    requests: int
    rows: int
    """Of the batch dimension: frames to most networks, cells to the classifier."""
    executions: int

    def since(self, before: StepCount) -> StepCount:
        """Return what has come on top."""
        return StepCount(
            self.requests - before.requests,
            self.rows - before.rows,
            self.executions - before.executions,
        )


@dataclass(frozen=True)
class Reading:
    """All meters at one moment."""

    moment: float
    """`time.monotonic`."""
    server_cpu_by_part: Mapping[str, float]
    """Processor seconds of the workers of each step, and of `TRITON`."""
    client_cpu: float
    machine_cpu: float
    """Of all processes of the machine."""
    steps: Mapping[str, StepCount]

    @property
    def server_cpu(self) -> float:
        """Processor seconds of all the server's processes."""
        return sum(self.server_cpu_by_part.values())

    def since(self, before: Reading) -> Reading:
        """Return what has come on top; ``moment`` is then the time between."""
        parts = self.server_cpu_by_part
        return Reading(
            self.moment - before.moment,
            {part: parts[part] - before.server_cpu_by_part.get(part, 0.0) for part in parts},
            self.client_cpu - before.client_cpu,
            self.machine_cpu - before.machine_cpu,
            {step: count.since(before.steps[step]) for step, count in self.steps.items()},
        )


class Meters:
    """The meters of a server with one pipeline under load.

    Args:
        url: ``host:port`` of its gRPC endpoint.
        pipeline: whose network steps are counted.
        pid: of the process that the server's others descend from.
    """

    def __init__(self, url: str, pipeline: str, pid: int) -> None:
        self._connection = triton.InferenceServerClient(url)
        self._steps = served_steps(self._connection, pipeline)
        self._pid = pid

    def read(self, client_pids: Sequence[int] = ()) -> Reading:
        """Read all meters; ``client_pids`` are the processes that ask."""
        return Reading(
            time.monotonic(),
            self._server_cpu(),
            sum(cpu_seconds(psutil.Process(pid)) for pid in client_pids),
            machine_cpu_seconds(),
            {name: self._count(name) for name in self._steps if STEPS[name].batches},
        )

    def _server_cpu(self) -> dict[str, float]:
        seconds: dict[str, float] = defaultdict(float)
        for process in family(self._pid):
            worker = worker_from(process)
            part = worker.model if worker and worker.model in self._steps else TRITON
            seconds[part] += cpu_seconds(process)
        return dict(seconds)

    def _count(self, step: str) -> StepCount:
        [stats] = self._connection.get_inference_statistics(step).model_stats
        return StepCount(
            stats.inference_stats.success.count, stats.inference_count, stats.execution_count
        )

    def close(self) -> None:
        """Give the connection back."""
        self._connection.close()

    def __enter__(self) -> Meters:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def family(pid: int) -> list[psutil.Process]:
    """Return a process and its descendants."""
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def machine_cpu_seconds() -> float:
    """Processor seconds of the whole machine since it was started, idle ones left out."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)
