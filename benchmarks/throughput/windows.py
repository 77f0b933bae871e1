"""Intervals in which requests are counted, and what they cost the processes of the machine."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import tritonclient.grpc as triton

from benchmarks.harness.serving import DEFAULT, GRPC, SHARED_MEMORY
from benchmarks.harness.step_statistics import served_steps
from benchmarks.harness.timing import percentile
from benchmarks.throughput.clients import ClientProcesses, Load, answered_per_second
from benchmarks.throughput.layouts import Layout, Opened
from benchmarks.throughput.perf_analyzer import PerfAnalyzer
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


PERF_ANALYZER = "perf_analyzer"
ONE_PROCESS = "client, 1 process"
ONE_ON_THE_MACHINE = "client, 1 process, shared memory"
MANY_PROCESSES = "client, a process each"

CLIENT = "client"
"""The part of a frame's processor time that the processes take which ask."""

ANSWERS_EACH = 8
"""Answers for each of perf_analyzer's requests at a time, at least: it counts whole answers, and a
batch comes in at once, so that those at either end of its windows shall count little."""


@dataclass(frozen=True)
class Served:
    """One way to ask a server: a row of the table."""

    client: str
    concurrency: int
    variant: str = DEFAULT
    """Of the model repository, as it is served."""


Way = Served | Layout


@dataclass(frozen=True)
class Sample:
    """What one window saw."""

    frames_per_second: float
    p50: float
    """Seconds from a frame to its answer."""
    p99: float
    answers: int
    server_cores: float
    client_cores: float
    """Those of the graphs where they run in this process."""
    other_cores: float
    """Kept busy by processes that have nothing to do with it."""
    steps: Mapping[str, StepCount]
    cpu_by_part: Mapping[str, float]
    """Processor seconds a frame, of each step, of `TRITON` and of `CLIENT`."""

    @property
    def cpu_per_frame(self) -> float:
        """Processor seconds a frame, of server and clients. A busy machine changes it little."""
        return (self.server_cores + self.client_cores) / self.frames_per_second


@dataclass
class Bench:
    """A server and its rival in this process, of one pipeline, and who may ask them."""

    pipeline: str
    url: str
    meters: Meters
    clients: ClientProcesses
    opened: Mapping[Layout, Opened]
    tool: PerfAnalyzer | None
    frames_file: Path
    window: float
    """Seconds."""
    rates: dict[int, float] = field(default_factory=dict)
    """Concurrency -> frames per second of the client lately, to choose how long to measure."""

    def measure(self, way: Way) -> Sample:
        """Measure one window of one way."""
        if isinstance(way, Layout):
            opened = self.opened[way]
            opened.take_cpu_by_step()  # those of the window before
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
