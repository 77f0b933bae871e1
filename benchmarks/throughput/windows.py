"""Counts requests in windows of time, and what they cost the processes of the machine."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psutil
import tritonclient.grpc as triton

from benchmarks.harness.load import LoadFrame
from benchmarks.harness.memory import family
from benchmarks.harness.step_statistics import served_steps
from benchmarks.harness.timing import percentile
from benchmarks.throughput.clients import (
    Callers,
    Layout,
    Opened,
    answered_per_second,
    client_asks,
)
from cytoserve import Client
from cytoserve.contract import STEPS
from server.tritonserver import cpu_seconds
from server.variants import DEFAULT


@dataclass(frozen=True)
class StepCount:
    """Cumulative statistics of one network step."""

    requests: int
    rows: int
    """Rows of the batch dimension: frames for most networks, cells for the classifier."""
    executions: int

    def since(self, before: StepCount) -> StepCount:
        """Return the increase since ``before``."""
        return StepCount(
            self.requests - before.requests,
            self.rows - before.rows,
            self.executions - before.executions,
        )


@dataclass(frozen=True)
class Reading:
    """Readings of all meters at one moment."""

    moment: float
    """Time by `time.monotonic`, in seconds."""
    server_cpu: float
    """Processor seconds of all the server's processes."""
    client_cpu: float
    """Processor seconds of this process, whose threads ask."""
    machine_cpu: float
    """Processor seconds of all processes of the machine."""
    steps: Mapping[str, StepCount]

    def since(self, before: Reading) -> Reading:
        """Return the increase since ``before``; ``moment`` is then the time between."""
        return Reading(
            self.moment - before.moment,
            self.server_cpu - before.server_cpu,
            self.client_cpu - before.client_cpu,
            self.machine_cpu - before.machine_cpu,
            {step: count.since(before.steps[step]) for step, count in self.steps.items()},
        )


class Meters:
    """The meters of a server with one pipeline under load.

    Args:
        url: ``host:port`` of its gRPC endpoint.
        pipeline: pipeline whose network steps are counted.
        pid: process that the server's other processes descend from.
    """

    def __init__(self, url: str, pipeline: str, pid: int) -> None:
        self._connection = triton.InferenceServerClient(url)
        self._steps = served_steps(self._connection, pipeline)
        self._pid = pid

    def read(self) -> Reading:
        """Read all meters."""
        return Reading(
            time.monotonic(),
            sum(cpu_seconds(process) for process in family(self._pid)),
            cpu_seconds(psutil.Process()),
            machine_cpu_seconds(),
            {name: self._count(name) for name in self._steps if STEPS[name].batches},
        )

    def _count(self, step: str) -> StepCount:
        [stats] = self._connection.get_inference_statistics(step).model_stats
        return StepCount(
            stats.inference_stats.success.count, stats.inference_count, stats.execution_count
        )

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def __enter__(self) -> Meters:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def machine_cpu_seconds() -> float:
    """Return the processor seconds of the machine since its start, without idle time."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)


@dataclass(frozen=True)
class Served:
    """Threads of this process that ask a server: one row of the table."""

    client: str
    """Transport that they share, one of `benchmarks.harness.serving.TRANSPORTS`."""
    concurrency: int
    variant: str = DEFAULT
    """Variant of the model repository that is served."""


Way = Served | Layout


@dataclass(frozen=True)
class Sample:
    """Measurements of one window."""

    frames_per_second: float
    p50: float
    """Median seconds from a frame to its answer."""
    p99: float
    answers: int
    server_cores: float
    client_cores: float
    """Cores that clients keep busy; those of the graphs if they run in this process."""
    other_cores: float
    """Cores that unrelated processes keep busy."""
    steps: Mapping[str, StepCount]

    @property
    def cpu_per_frame(self) -> float:
        """Processor seconds per frame of server and clients. A busy machine changes it little."""
        return (self.server_cores + self.client_cores) / self.frames_per_second


@dataclass(frozen=True)
class Bench:
    """A server of one pipeline, and its graphs in this process."""

    pipeline: str
    frames: Sequence[LoadFrame]
    meters: Meters
    clients: Mapping[str, Client]
    """Transport -> client of the server."""
    opened: Mapping[Layout, Opened]
    window: float
    """Duration of a window in seconds."""

    def measure(self, way: Way) -> Sample:
        """Measure one window of a client or a layout."""
        if isinstance(way, Layout):
            callers = self.opened[way].callers()
        else:
            clients = [self.clients[way.client]] * way.concurrency
            callers = Callers(client_asks(clients, self.pipeline, self.frames))
        callers.start()
        callers.wait_until_warm()
        before = self.meters.read()
        time.sleep(self.window)
        after = self.meters.read()
        exchanges = callers.stop()
        start, end, used = before.moment, after.moment, after.since(before)
        ended = [one.answered - one.sent for one in exchanges if start < one.answered <= end]
        # A window may be too short for any answer to end in it.
        seconds = ended or [one.answered - one.sent for one in exchanges]
        others = used.machine_cpu - used.server_cpu - used.client_cpu
        return Sample(
            answered_per_second(exchanges, start, end),
            percentile(seconds, 50),
            percentile(seconds, 99),
            len(ended),
            server_cores=used.server_cpu / used.moment,
            client_cores=used.client_cpu / used.moment,
            other_cores=max(0.0, others / used.moment),
            steps=used.steps,
        )
