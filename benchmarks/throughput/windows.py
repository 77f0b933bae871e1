"""Counts requests in windows of time, and what they cost the processes of the machine."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import tritonclient.grpc as triton

from benchmarks.harness.memory import family
from benchmarks.harness.serving import DEFAULT, GRPC, SHARED_MEMORY
from benchmarks.harness.step_statistics import served_steps
from benchmarks.harness.timing import percentile
from benchmarks.throughput.clients import ClientProcesses, Load, answered_per_second
from benchmarks.throughput.layouts import Layout, Opened
from benchmarks.throughput.perf_analyzer import PerfAnalyzer
from cytoserve.contract import STEPS
from server.tritonserver import cpu_seconds, worker_from

TRITON = "tritonserver"
"""Name of the part for all of a server's processes except the workers of its steps. They receive
requests and copy tensors from worker to worker."""


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
    server_cpu_by_part: Mapping[str, float]
    """Processor seconds of the workers of each step, and of `TRITON`."""
    client_cpu: float
    machine_cpu: float
    """Processor seconds of all processes of the machine."""
    steps: Mapping[str, StepCount]

    @property
    def server_cpu(self) -> float:
        """Processor seconds of all the server's processes."""
        return sum(self.server_cpu_by_part.values())

    def since(self, before: Reading) -> Reading:
        """Return the increase since ``before``; ``moment`` is then the time between."""
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
        pipeline: pipeline whose network steps are counted.
        pid: process that the server's other processes descend from.
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


PERF_ANALYZER = "perf_analyzer"
ONE_PROCESS = "client, 1 process"
ONE_ON_THE_MACHINE = "client, 1 process, shared memory"
MANY_PROCESSES = "client, a process each"

CLIENT = "client"
"""Name of the part of a frame's processor time that the processes of clients take."""

ANSWERS_EACH = 8
"""Minimum answers per perf_analyzer request at a time. It counts whole answers, and a batch arrives
at once, so the answers at both ends of its windows must matter little."""


@dataclass(frozen=True)
class Served:
    """A client of a server: one row of the table."""

    client: str
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
    cpu_by_part: Mapping[str, float]
    """Processor seconds per frame of each step, of `TRITON` and of `CLIENT`."""

    @property
    def cpu_per_frame(self) -> float:
        """Processor seconds per frame of server and clients. A busy machine changes it little."""
        return (self.server_cores + self.client_cores) / self.frames_per_second


@dataclass
class Bench:
    """A server of one pipeline, its graphs in this process, and the clients of both."""

    pipeline: str
    url: str
    meters: Meters
    clients: ClientProcesses
    opened: Mapping[Layout, Opened]
    tool: PerfAnalyzer | None
    frames_file: Path
    window: float
    """Duration of a window in seconds."""
    rates: dict[int, float] = field(default_factory=dict)
    """Concurrency -> latest frames per second of the client, to choose how long to measure."""

    def measure(self, way: Way) -> Sample:
        """Measure one window of a client or a layout."""
        if isinstance(way, Layout):
            opened = self.opened[way]
            opened.take_cpu_by_step()  # discard those of the previous window
            sample = self._window(opened.callers())
            return replace(sample, cpu_by_part=opened.take_cpu_by_step())
        if way.client == PERF_ANALYZER:
            return self._perf_analyzer(way.concurrency)
        many = way.client == MANY_PROCESSES
        processes, callers = (way.concurrency, 1) if many else (1, way.concurrency)
        transport = SHARED_MEMORY if way.client == ONE_ON_THE_MACHINE else GRPC
        sample = self._window(self.clients.load(processes, callers, transport))
        self.rates[way.concurrency] = sample.frames_per_second
        return sample

    def _window(self, load: Load) -> Sample:
        load.start()
        load.wait_until_warm()
        before = self.meters.read(load.pids)
        time.sleep(self.window)
        after = self.meters.read(load.pids)
        exchanges = load.stop()
        start, end = before.moment, after.moment
        ended = [one.answered - one.sent for one in exchanges if start < one.answered <= end]
        # A window may be too short for any answer to end in it.
        seconds = ended or [one.answered - one.sent for one in exchanges]
        return _sample(
            answered_per_second(exchanges, start, end),
            percentile(seconds, 50),
            percentile(seconds, 99),
            len(ended),
            after.since(before),
            after.client_cpu - before.client_cpu,
        )

    def _perf_analyzer(self, concurrency: int) -> Sample:
        assert self.tool is not None
        seconds = max(self.window, ANSWERS_EACH * concurrency / self.rates[concurrency])
        with self.tool.asking(
            self.url, self.pipeline, self.frames_file, concurrency=concurrency, seconds=seconds
        ) as measurement:
            before = self.meters.read()
            report = measurement.report()
            after = self.meters.read()
        return _sample(
            report.frames_per_second,
            report.p50,
            report.p99,
            report.answers,
            after.since(before),
            report.cpu_seconds,
        )


def _sample(
    frames_per_second: float,
    p50: float,
    p99: float,
    answers: int,
    used: Reading,
    client_cpu: float,
) -> Sample:
    others = used.machine_cpu - used.server_cpu - client_cpu
    by_part = {**used.server_cpu_by_part, CLIENT: client_cpu}
    frames = frames_per_second * used.moment
    return Sample(
        frames_per_second,
        p50,
        p99,
        answers,
        server_cores=used.server_cpu / used.moment,
        client_cores=client_cpu / used.moment,
        other_cores=max(0.0, others / used.moment),
        steps=used.steps,
        cpu_by_part={part: seconds / frames for part, seconds in by_part.items()},
    )
