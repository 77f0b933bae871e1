"""The result of `benchmarks.throughput`: its figures, bounds and page."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.harness.bounds import Bound
from benchmarks.harness.results import Result, machine_note, table_of
from benchmarks.harness.serving import SHARED_MEMORY
from benchmarks.harness.timing import percentile_text
from cytoserve.contract import THROUGHPUT
from server.variants import DEFAULT

BOUND_AT = 8
"""Number of requests at a time for the comparison with the limit."""


@dataclass(frozen=True, kw_only=True)
class FramesSent:
    """The frames that all clients send."""

    rendered: bool
    count: int
    width: int
    height: int
    cells: int | None
    """Cells of a rendered frame."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Medians over the windows of one client or layout."""

    pipeline: str
    frames_per_second: float
    share: float
    """Median over rounds of its frames per second / those of the best layout."""
    p50_seconds: float
    p99_seconds: float
    answers: int
    """Answers in all windows."""
    cpu_seconds_per_frame: float
    """Processor seconds of server and clients."""
    client_cores: float
    """Cores that clients keep busy; those of the graphs if they run in this process."""
    other_cores: float
    """Cores that unrelated processes keep busy."""


@dataclass(frozen=True, kw_only=True)
class LayoutRow(Rates):
    """The graphs in this process, in one layout of threads."""

    layout: str
    chains: int
    """Number of sets of sessions."""
    threads: int
    """Threads per session."""
    callers: int
    """Frames at a time."""
    best: bool
    """Whether it answers most frames: the limit."""


@dataclass(frozen=True, kw_only=True)
class ServedRow(Rates):
    """A client of a server."""

    variant: str
    client: str
    """Transport."""
    concurrency: int
    """Requests at a time."""
    server_cores: float


@dataclass(frozen=True, kw_only=True)
class BatchRow:
    """How a network step was run for a client of `ServedRow`."""

    pipeline: str
    variant: str
    client: str
    concurrency: int
    step: str
    executions: int
    requests_per_execution: float
    rows_per_execution: float
    """Rows of the batch dimension: frames for most networks, cells for the classifier."""


@dataclass(frozen=True, kw_only=True)
class ThroughputResult(Result):
    """Frames per second of many clients."""

    frames: FramesSent
    rounds: int
    window_seconds: float
    in_process: tuple[LayoutRow, ...]
    served: tuple[ServedRow, ...]
    batches: tuple[BatchRow, ...]


BOUNDS: tuple[Bound[ThroughputResult], ...] = (
    Bound(
        "Throughput of 8 clients",
        "frames per second of variant `throughput` / the most that the graphs do in one process",
        ">=",
        0.95,
        lambda r: (
            (f"{row.pipeline}, {row.client}", row.share)
            for row in r.served
            if (row.variant, row.concurrency) == (THROUGHPUT.name, BOUND_AT)
        ),
    ),
    Bound(
        "Throughput of 8 clients, shared memory",
        "the same, with frames in shared memory",
        ">=",
        0.95,
        lambda r: (
            (row.pipeline, row.share)
            for row in r.served
            if (row.variant, row.client, row.concurrency)
            == (THROUGHPUT.name, SHARED_MEMORY, BOUND_AT)
        ),
    ),
    Bound(
        "Batches of 8 clients",
        "frames / executions of a network that batches, by default",
        ">",
        1,
        lambda r: (
            (f"{row.step}, {row.client}", row.requests_per_execution)
            for row in r.batches
            if (row.variant, row.concurrency) == (DEFAULT, BOUND_AT)
        ),
    ),
)


def throughput_page(result: ThroughputResult) -> str:
    """Return the page of a result."""
    frames = result.frames
    cells = f", {frames.cells} cells each" if frames.rendered else ""
    kind = "rendered frames" if frames.rendered else "frames"
    others = statistics.median(row.other_cores for row in (*result.served, *result.in_process))
    head = [
        f"{frames.count} {kind} of {frames.width} x {frames.height} px{cells}; "
        f"{result.rounds} rounds of {result.window_seconds:g} s windows, all ways in turn.",
        "A share is the median over rounds of the frames per second beside the best layout's.",
        "A p99 marked `max` is the slowest of too few answers of a window to tell.",
        f"Processes of others kept {others:.1f} cores busy meanwhile (median of all windows).",
    ]
    pipelines = dict.fromkeys(row.pipeline for row in result.served)
    parts = [_pipeline(result, name) for name in pipelines]
    return "\n".join([*head, "", *parts, machine_note(result.machine), ""])


def _pipeline(result: ThroughputResult, pipeline: str) -> str:
    served, limit = _served_table(result, pipeline), _limit_table(result, pipeline)
    return f"## {pipeline}\n\n{served}\n\nThe limit, in this process:\n\n{limit}\n"


def _served_table(result: ThroughputResult, pipeline: str) -> str:
    batches = [row for row in result.batches if row.pipeline == pipeline]
    formed = {
        (row.variant, row.client, row.concurrency, row.step): f"{row.requests_per_execution:.1f}"
        for row in batches
    }

    def batch_of(step: str) -> Callable[[ServedRow], str]:
        return lambda row: formed.get((row.variant, row.client, row.concurrency, step), "")

    columns: dict[str, Callable[[ServedRow], str]] = {
        "variant": lambda row: row.variant,
        "requests at a time": lambda row: f"{row.concurrency}",
        "client": lambda row: row.client,
        "frames/s": lambda row: f"{row.frames_per_second:.1f}",
        "share": lambda row: f"{row.share:.2f}",
        "p50 s": lambda row: f"{row.p50_seconds:.3f}",
        "p99 s": lambda row: _p99(row, result.rounds),
        "CPU s per frame": lambda row: f"{row.cpu_seconds_per_frame:.3f}",
        "server's cores": lambda row: f"{row.server_cores:.2f}",
        "client's cores": lambda row: f"{row.client_cores:.2f}",
    }
    for step in dict.fromkeys(row.step for row in batches):
        columns[f"requests per execution of {step}"] = batch_of(step)
    return table_of((row for row in result.served if row.pipeline == pipeline), columns)


def _limit_table(result: ThroughputResult, pipeline: str) -> str:
    return table_of(
        (row for row in result.in_process if row.pipeline == pipeline),
        {
            "layout": lambda row: f"**{row.layout}**" if row.best else row.layout,
            "frames/s": lambda row: f"{row.frames_per_second:.1f}",
            "share of the best": lambda row: f"{row.share:.2f}",
            "p99 s": lambda row: _p99(row, result.rounds),
            "CPU s per frame": lambda row: f"{row.cpu_seconds_per_frame:.3f}",
            "cores": lambda row: f"{row.client_cores:.2f}",
        },
    )


def _p99(row: Rates, rounds: int) -> str:
    """Return the median of the windows' p99 as text."""
    return percentile_text(f"{row.p99_seconds:.3f}", 99, row.answers / rounds)
