"""Measures frames per second of a pipeline with many clients, against the limit of its graphs.

\b
    make bench-tools
    python -m benchmarks.throughput --json throughput.json

A pipeline is served by default and, if it changes the pipeline, as the variant for many clients:
`python -m server --variant throughput`. Each server gets 1 to 16 requests at a time, from Triton's
own perf_analyzer, from one process of cytoserve's client with as many threads, over gRPC and
through shared memory, and from as many processes. The figures are frames per second, p50 and p99,
the cores that server and clients keep busy, and the mean batch of every network step by Triton's
statistics. Processor seconds per frame, of server and clients together, show best where throughput
is lost. They are comparable even on a busy machine.

The limit is the same graphs in this process, without a server, in the layout of threads that
answers most frames. All layouts are listed. All clients and layouts are interleaved, round by
round, in short windows. Medians of the rounds are reported; shares are medians of each round's own
shares. Then the servers for 8 requests at a time, of the variant for many clients if there is one,
are measured again, every window between two of the limit's. This gives their share of the limit,
and the parts of their processor time.

perf_analyzer measures longer than a window, because it counts whole answers. It requests all
outputs of a model, so the served repository lacks outputs that are computed on request only.
"""

from __future__ import annotations

import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Any

import click
from rich.progress import track

from benchmarks.harness.load import LoadFrame, load_frame, read_frames
from benchmarks.harness.options import ImageSize, json_option, markdown_option, repository_option
from benchmarks.harness.results import new_result, write_result
from benchmarks.harness.serving import DEFAULT, serve_without_health_checks
from benchmarks.throughput import perf_analyzer
from benchmarks.throughput.clients import ClientProcesses
from benchmarks.throughput.layouts import BATCHES, Layout, Opened, layouts
from benchmarks.throughput.perf_analyzer import (
    PerfAnalyzer,
    PerfAnalyzerFailed,
    PerfAnalyzerMissing,
    without_outputs_on_request,
)
from benchmarks.throughput.saturation import bound_among, measure_between, saturation_rows
from benchmarks.throughput.tables import best_layout, rows_of, throughput_table
from benchmarks.throughput.windows import (
    MANY_PROCESSES,
    ONE_ON_THE_MACHINE,
    ONE_PROCESS,
    PERF_ANALYZER,
    Bench,
    Meters,
    Sample,
    Served,
    Way,
)
from cytoserve import Client, CytoserveError
from cytoserve.codec import foregrounds, instances, prompted
from cytoserve.codec.cards import ModelCard
from cytoserve.contract import PIPELINES
from cytoserve.model_config import ModelConfigError
from cytoserve.operating_point import operating_point
from cytoserve.settings import ForegroundSettings, Settings
from cytoserve.transport import Request
from server.errors import StartError
from server.repository import is_configured
from server.variants import VARIANTS

CONCURRENCY = (1, 2, 4, 8, 16)
RENDERED = 4
"""Number of frames that are rendered."""

EXPECTED = (
    *(CytoserveError, ModelConfigError, StartError),
    *(PerfAnalyzerMissing, PerfAnalyzerFailed),
)
"""Errors whose messages suffice for a caller."""


def measure(
    repository: Path,
    pipeline: str,
    frames: Sequence[LoadFrame],
    *,
    variants: Sequence[str],
    concurrency: Sequence[int],
    rounds: int,
    rounds_beside: int,
    window: float,
    tool: PerfAnalyzer | None,
) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of one pipeline, by the name of their list in the result."""
    one_shape = len({frame.image.shape for frame in frames}) == 1
    tried = layouts(len(os.sched_getaffinity(0)), batches=BATCHES if one_shape else ())
    opened = {layout: Opened(repository, pipeline, layout, frames) for layout in tried}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "models").mkdir()
        served = without_outputs_on_request(repository, [pipeline], folder / "models")
        benches = {}
        for variant in (DEFAULT, *variants):
            server = stack.enter_context(serve_without_health_checks(served, [pipeline], variant))
            if variant == DEFAULT:
                with Client(server.url) as client:
                    requests = requests_of(client.card(pipeline), frames)
                perf_analyzer.write_frames(requests, folder / "frames.json")
            benches[variant] = Bench(
                pipeline,
                server.url,
                stack.enter_context(Meters(server.url, pipeline, server.pid)),
                stack.enter_context(
                    ClientProcesses(server.url, pipeline, frames, max(concurrency)),
                ),
                opened,
                tool,
                folder / "frames.json",
                window,
            )
        samples: dict[Way, list[Sample]] = defaultdict(list)
        ways = list(_ways(concurrency, tried, list(benches), tool is not None))
        for way in track(ways * rounds, f"measuring {pipeline}", transient=True):
            bench = benches[DEFAULT if isinstance(way, Layout) else way.variant]
            samples[way].append(bench.measure(way))
        limit = best_layout(samples)
        compared = [
            Served(client, bound_among(concurrency), variant)
            for client, variant in product(_clients(tool is not None), variants or [DEFAULT])
        ]
        found = measure_between(benches, limit, compared, rounds_beside)
    rows = rows_of(pipeline, samples)
    return {**rows, "saturation": list(saturation_rows(pipeline, limit, found))}


def variants_of(repository: Path, pipeline: str) -> list[str]:
    """Return the variants for many clients that change ``pipeline``."""
    return [
        name
        for name, variant in VARIANTS.items()
        if variant.for_many and is_configured(repository, PIPELINES[pipeline], name)
    ]


def _ways(
    concurrency: Sequence[int], tried: Sequence[Layout], variants: Sequence[str], tool: bool
) -> Iterator[Way]:
    """Yield one round; the limit is next to the clients that are compared with it."""
    for number in sorted(concurrency):
        if number == bound_among(concurrency):
            yield from tried
        for client, variant in product(_clients(tool), variants):
            if (client, number) != (MANY_PROCESSES, 1):  # the same as one process
                yield Served(client, number, variant)


def _clients(tool: bool) -> tuple[str, ...]:
    ours = (ONE_PROCESS, ONE_ON_THE_MACHINE, MANY_PROCESSES)
    return (*ours, PERF_ANALYZER) if tool else ours


def requests_of(card: ModelCard, frames: Sequence[LoadFrame]) -> list[Request]:
    """Return the client's requests for the frames, with the scale and threshold of the card.

    Raises:
        CytoserveError: the pipeline does not take such a frame.
    """
    kind = PIPELINES[card.pipeline]
    if kind.is_semantic:
        settings = ForegroundSettings().with_threshold_of(card.threshold)
        return [foregrounds.encode_request(frame.image, kind, settings) for frame in frames]
    if not kind.is_prompted:
        points = [operating_point(Settings(), card, frame.image.shape, kind) for frame in frames]
        return [
            instances.encode_request(frame.image, kind, point)
            for frame, point in zip(frames, points, strict=True)
        ]
    return [
        prompted.encode_request(frame.image, kind, frame.prompts)
        for frame in frames
        if frame.prompts is not None
    ]


def _concurrency(context: click.Context, option: click.Parameter, text: str) -> tuple[int, ...]:
    numbers = text.split(",")
    if not all(number.isdecimal() and int(number) > 0 for number in numbers):
        raise click.BadParameter(f"numbers of requests at a time read 1,2,4,8; given: {text}")
    return tuple(sorted({int(number) for number in numbers}))


@click.command(help=__doc__, context_settings={"show_default": True})
@click.option(
    "--pipeline",
    "pipelines",
    type=click.Choice(list(PIPELINES)),
    multiple=True,
    default=("yolo", "yolo_resnet"),
    help="May be given several times.",
)
@click.option("--size", type=ImageSize(), default="1024x1024", help="Of the rendered frames.")
@click.option("--cells", type=click.IntRange(0), default=15, help="Cells of a rendered frame.")
@click.option(
    "--frames",
    "folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Images of yours, in place of rendered ones.",
)
@click.option(
    "--concurrency",
    callback=_concurrency,
    default=",".join(map(str, CONCURRENCY)),
    help="Requests at a time.",
)
@click.option(
    "--rounds", type=click.IntRange(1), default=3, help="Windows of each client and layout."
)
@click.option(
    "--rounds-beside",
    type=click.IntRange(2),
    default=15,
    help="Windows of each client that is compared with the limit, between two of the limit's.",
)
@click.option("--window", type=click.FloatRange(0.1), default=1.5, help="Seconds of one window.")
@click.option("--without-perf-analyzer", is_flag=True, help="Ask with cytoserve's client only.")
@repository_option
@json_option
@markdown_option
def main(
    pipelines: Sequence[str],
    size: tuple[int, int],
    cells: int,
    folder: Path | None,
    concurrency: Sequence[int],
    rounds: int,
    rounds_beside: int,
    window: float,
    without_perf_analyzer: bool,
    model_repository: Path,
    json_file: Path,
    markdown: Path | None,
) -> None:
    """Measure; the module's docstring is the help."""
    if any(PIPELINES[name].is_prompted for name in pipelines) and (folder or not cells):
        raise click.UsageError("prompted pipelines need rendered frames with one cell or more.")
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    try:
        tool = None if without_perf_analyzer else perf_analyzer.find()
        frames = (
            read_frames(folder)
            if folder
            else [load_frame(*size, cells, seed) for seed in range(RENDERED)]
        )
        for pipeline in pipelines:
            found = measure(
                model_repository,
                pipeline,
                frames,
                variants=variants_of(model_repository, pipeline),
                concurrency=concurrency,
                rounds=rounds,
                rounds_beside=rounds_beside,
                window=window,
                tool=tool,
            )
            for name, more in found.items():
                rows[name] += more
    except EXPECTED as error:
        raise click.ClickException(str(error)) from error
    height, width = frames[0].image.shape[:2]
    result = new_result(
        "throughput",
        frames={
            "rendered": folder is None,
            "count": len(frames),
            "width": width,
            "height": height,
            "cells": cells if folder is None else None,
        },
        rounds=rounds,
        window_seconds=window,
        **rows,
    )
    write_result(result, throughput_table(result), json_file, markdown)


if __name__ == "__main__":
    main()
