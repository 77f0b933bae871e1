"""Measures the latency of one frame for a single client, and how long each part of a call takes.

\b
    python -m benchmarks.latency --json latency.json

Every exported pipeline gets frames of growing size and, unless it is semantic, frames with growing
numbers of cells, through gRPC with and without system shared memory. p50, p95 and p99 are those of
the caller of `cytoserve.Client`. The mean is split into:

\b
    encode   from the camera's array to the request's tensors
    wire     the rest: messages or shared memory, gRPC, waking up of both processes
    server   from the request's arrival at Triton until Triton releases it, shortly after its answer
    decode   from the answer's tensors to cells or foreground

The server's part is split into queue, input, compute and output of every step. At one size,
requests are interleaved with the same graphs in this process, encoded and decoded by the same
client. This gives `overhead`, the time that the server adds. Pipelines that the variant
`single-graph` serves as one graph are compared in that variant as well.

The server does not cache answers (`--response-cache-mb=0`), so that a repeated frame costs as much
as a new one, and sends no canaries meanwhile. A case is repeated until `--seconds` are used, at
least `--fewest` times. With few requests, p95 and p99 are the slowest, and the table says so.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.progress import track

from benchmarks.harness.load import (
    Case,
    LoadFrame,
    ask,
    asked,
    count_answered,
    cross,
    exported,
    product,
)
from benchmarks.harness.options import (
    counts_option,
    json_option,
    markdown_option,
    pipelines_option,
    repository_option,
    sizes_option,
)
from benchmarks.harness.results import made_by, write_result
from benchmarks.harness.serving import TRANSPORTS, serve_without_health_checks
from benchmarks.harness.step_statistics import ModelCount, counted
from benchmarks.harness.timing import WARM_UPS, percentile
from benchmarks.latency.overhead import ROUNDS, CallSeconds, SplitClock, measure_overhead
from benchmarks.latency.result import CaseRow, LatencyResult, OverheadRow, StepRow, latency_page
from cytoserve import Client
from cytoserve.contract import SINGLE_GRAPH
from server.errors import ServerError
from server.repository import is_configured, survey
from server.variants import DEFAULT

MOST = 100
"""Maximum requests per case and transport: more would only sharpen the last digit."""

TURNS = 2
"""Number of turns in which the transports of a case alternate."""

DEADLINE = 600.0
"""Maximum seconds per frame."""


class Way:
    """One transport to the server, with its clock."""

    def __init__(self, name: str, url: str, stack: ExitStack) -> None:
        self.name = name
        self.url = url
        self.clock = SplitClock(TRANSPORTS[name](url))
        self.client = stack.enter_context(Client(transport=self.clock, timeout=DEADLINE))
        self.calls: list[CallSeconds] = []
        self.counts: dict[str, list[ModelCount]] = defaultdict(list)
        self.found = 0
        """Number of cells, or centres, in the latest answer."""

    def begin(self) -> None:
        """Discard the previous case."""
        self.calls.clear()
        self.counts.clear()

    def warm_up(self, pipeline: str, frame: LoadFrame) -> float:
        """Ask once without counting, to grow arenas and read the card; return the seconds."""
        return self.clock.time(pipeline, partial(self._ask, pipeline, frame)).total

    def repeat(self, pipeline: str, frame: LoadFrame, requests: int) -> None:
        """Ask ``requests`` times, and count at the client and at the server."""

        def ask_all() -> None:
            for _ in range(requests):
                call = partial(self._ask, pipeline, frame)
                self.calls.append(self.clock.time(pipeline, call))

        for name, count in counted(self.url, pipeline, ask_all, requests).items():
            self.counts[name].append(count)

    def _ask(self, pipeline: str, frame: LoadFrame) -> None:
        self.found = count_answered(ask(self.client, pipeline, frame))


def measure_case(
    ways: Sequence[Way], pipeline: str, case: Case, seconds: float, fewest: int
) -> tuple[list[CaseRow], list[StepRow]]:
    """Measure one kind of frame through every transport, alternating between them."""
    frame = case.frame()
    for way in ways:
        way.begin()
    for _ in range(WARM_UPS):
        slowest = ways[0].warm_up(pipeline, frame)
        if slowest <= seconds:  # one transport warms a slow frame as well as all
            slowest = max(slowest, *(way.warm_up(pipeline, frame) for way in ways[1:]))
    repeats = min(MOST, max(fewest, math.ceil(seconds / slowest)))
    for turn in range(TURNS):
        for way in ways:
            requests = (repeats + turn) // TURNS
            if requests:
                way.repeat(pipeline, frame, requests)
    about: dict[str, Any] = {"pipeline": pipeline, **vars(case)}
    figures = [client_figures(way, pipeline) for way in ways]
    cases = [
        CaseRow(**about, way=way.name, to_grpc=own["p50_ms"] / figures[0]["p50_ms"], **own)
        for way, own in zip(ways, figures, strict=True)
    ]
    steps = [
        StepRow(**about, way=way.name, step=step, **step_figures(counts, repeats))
        for way in ways
        for step, counts in way.counts.items()
        if step != pipeline and any(count.answers for count in counts)
    ]
    return cases, steps


def client_figures(way: Way, pipeline: str) -> dict[str, Any]:
    """Return percentiles and mean parts of a transport's calls, in milliseconds."""
    calls = way.calls
    totals = [call.total * 1e3 for call in calls]
    server = sum(count.total for count in way.counts[pipeline]) / len(calls)
    encode, transport, decode = (
        statistics.mean(getattr(call, part) for call in calls)
        for part in ("encode", "transport", "decode")
    )
    return {
        "found": way.found,
        "requests": len(calls),
        **{f"p{rank}_ms": percentile(totals, rank) for rank in (50, 95, 99)},
        "mean_ms": statistics.mean(totals),
        "encode_ms": encode * 1e3,
        "wire_ms": (transport - server) * 1e3,
        "server_ms": server * 1e3,
        "decode_ms": decode * 1e3,
        "request_bytes": calls[0].request_bytes,
        "answer_bytes": calls[0].answer_bytes,
    }


def step_figures(counts: Sequence[ModelCount], requests: int) -> dict[str, Any]:
    """Return the mean milliseconds of a request that a step took."""
    parts = ("queue", "input", "compute", "output")
    return {
        **{f"{p}_ms": sum(getattr(c, p) for c in counts) / requests * 1e3 for p in parts},
        "executions": sum(count.executions for count in counts) / requests,
    }


def measure(
    repository: Path,
    pipelines: Sequence[str],
    cases: Sequence[Case],
    *,
    seconds: float,
    fewest: int,
    overhead_seconds: float,
) -> LatencyResult:
    """Measure all pipelines on one server, and the merged ones on another."""
    case_rows: list[CaseRow] = []
    step_rows: list[StepRow] = []
    overheads: list[OverheadRow] = []
    merged = [
        export.pipeline.name
        for export in survey(repository, pipelines, SINGLE_GRAPH)
        if not export.missing and is_configured(repository, export.pipeline, SINGLE_GRAPH)
    ]
    # Frames of all kinds are for the default alone: a variant is compared on one kind.
    for variant, names, kinds in ((DEFAULT, pipelines, cases), (SINGLE_GRAPH, merged, ())):
        if not names:
            continue
        work = [(name, case) for name in names for case in asked(name, kinds)]
        with _serving(repository, names, variant) as ways:
            for name, case in track(work, "frames", transient=True):
                of_case, of_steps = measure_case(ways, name, case, seconds, fewest)
                case_rows += of_case
                step_rows += of_steps
            clients = {way.name: way.client for way in ways}
            overheads += [
                measure_overhead(clients, repository, name, variant, overhead_seconds, DEADLINE)
                for name in track(names, f"overhead, {variant}", transient=True)
            ]
    return LatencyResult(
        **made_by("latency"),
        seconds=seconds,
        fewest=fewest,
        overhead_seconds=overhead_seconds,
        cases=tuple(case_rows),
        steps=tuple(step_rows),
        overhead=tuple(overheads),
    )


@contextmanager
def _serving(repository: Path, pipelines: Sequence[str], variant: str) -> Iterator[list[Way]]:
    """Yield the transports to a server that nobody else uses."""
    with ExitStack() as stack:
        serving = serve_without_health_checks(repository, pipelines, variant, timeout=DEADLINE)
        server = stack.enter_context(serving)
        yield [Way(name, server.url, stack) for name in TRANSPORTS]


@click.command(help=__doc__, context_settings={"show_default": True})
@pipelines_option
@sizes_option
@counts_option
@click.option("--all-frames", is_flag=True, help="Every size with every count of cells.")
@click.option(
    "--seconds", type=click.FloatRange(0), default=1.0, help="Of requests per case and transport."
)
@click.option(
    "--fewest", type=click.IntRange(1), default=3, help="Requests per case and transport."
)
@click.option(
    "--overhead-seconds",
    type=click.FloatRange(0),
    default=20.0,
    help=f"Of interleaved requests per pipeline; at least {ROUNDS} rounds.",
)
@repository_option
@json_option
@markdown_option
def main(
    pipelines: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    counts: Sequence[int],
    all_frames: bool,
    seconds: float,
    fewest: int,
    overhead_seconds: float,
    model_repository: Path,
    json_file: Path,
    markdown: Path | None,
) -> None:
    """Measure; the module's docstring is the help."""
    names = exported(model_repository, pipelines)
    cases = (product if all_frames else cross)(sizes, counts)
    try:
        result = measure(
            model_repository,
            names,
            cases,
            seconds=seconds,
            fewest=fewest,
            overhead_seconds=overhead_seconds,
        )
    except ServerError as error:
        raise click.ClickException(str(error)) from error
    write_result(result, latency_page(result), json_file, markdown)


if __name__ == "__main__":
    main()
