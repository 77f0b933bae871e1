"""Measures frames per second of a pipeline with many clients, against the limit of its graphs.

\b
    python -m benchmarks.throughput --json throughput.json

A pipeline is served by default and, if it changes the pipeline, as the variant for many clients:
`python -m server --variant throughput`. Each server gets 1 to 16 requests at a time, from as many
threads of this process that share a client, over gRPC and through shared memory. The figures are
frames per second, p50 and p99, the cores that server and clients keep busy, and the mean batch of
every network step by Triton's statistics. Processor seconds per frame, of server and clients
together, show best where throughput is lost. They are comparable even on a busy machine.

The limit is the same graphs in this process, without a server, in the layout of threads that
answers most frames. All layouts are listed. All clients and layouts are interleaved, round by
round, in short windows. Medians of the rounds are reported; shares of the limit are medians of each
round's own shares.
"""

from __future__ import annotations

import os
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Any

import click
from rich.progress import track

from benchmarks.harness.load import LoadFrame, exported, load_frame, read_frames
from benchmarks.harness.options import ImageSize, json_option, markdown_option, repository_option
from benchmarks.harness.results import made_by, write_result
from benchmarks.harness.serving import TRANSPORTS, serve_without_health_checks
from benchmarks.throughput.clients import Layout, Opened, layouts
from benchmarks.throughput.result import (
    BOUND_AT,
    BatchRow,
    FramesSent,
    LayoutRow,
    ServedRow,
    ThroughputResult,
    throughput_page,
)
from benchmarks.throughput.windows import Bench, Meters, Sample, Served, Way
from cytoserve import Client, CytoserveError
from cytoserve.contract import PIPELINES
from cytoserve.model_config import ModelConfigError
from server.errors import StartError
from server.repository import is_configured
from server.variants import DEFAULT, VARIANTS

CONCURRENCY = (1, 2, 4, 8, 16)
RENDERED = 4
"""Number of frames that are rendered."""

DEADLINE = 120.0
"""Maximum seconds per frame."""

EXPECTED = (CytoserveError, ModelConfigError, StartError)
"""Errors whose messages suffice for a caller."""

Samples = Mapping[Way, Sequence[Sample]]
"""Samples of every client and layout, one per round, in their order."""


def measure(
    repository: Path,
    pipeline: str,
    frames: Sequence[LoadFrame],
    *,
    variants: Sequence[str],
    concurrency: Sequence[int],
    rounds: int,
    window: float,
) -> Samples:
    """Measure one pipeline, all ways in turn."""
    tried = layouts(len(os.sched_getaffinity(0)))
    opened = {layout: Opened(repository, pipeline, layout, frames) for layout in tried}
    with ExitStack() as stack:
        benches = {}
        for variant in (DEFAULT, *variants):
            serving = serve_without_health_checks(repository, [pipeline], variant)
            server = stack.enter_context(serving)
            clients = {
                name: stack.enter_context(Client(transport=kind(server.url), timeout=DEADLINE))
                for name, kind in TRANSPORTS.items()
            }
            meters = stack.enter_context(Meters(server.url, pipeline, server.pid))
            benches[variant] = Bench(pipeline, frames, meters, clients, opened, window)
        samples: dict[Way, list[Sample]] = defaultdict(list)
        ways = list(_ways(concurrency, tried, list(benches)))
        for way in track(ways * rounds, f"measuring {pipeline}", transient=True):
            bench = benches[DEFAULT if isinstance(way, Layout) else way.variant]
            samples[way].append(bench.measure(way))
        return samples


def variants_of(repository: Path, pipeline: str) -> list[str]:
    """Return the variants for many clients that change ``pipeline``."""
    return [
        name
        for name, variant in VARIANTS.items()
        if variant.for_many and is_configured(repository, PIPELINES[pipeline], name)
    ]


def bound_among(concurrency: Sequence[int]) -> int:
    """Return `BOUND_AT`, or the number that is nearest to it."""
    return min(concurrency, key=lambda number: abs(number - BOUND_AT))


def _ways(
    concurrency: Sequence[int], tried: Sequence[Layout], variants: Sequence[str]
) -> Iterator[Way]:
    """Yield one round; the limit is next to the clients that are compared with it."""
    for number in sorted(concurrency):
        if number == bound_among(concurrency):
            yield from tried
        for client, variant in product(TRANSPORTS, variants):
            yield Served(client, number, variant)


def best_layout(samples: Samples) -> Layout:
    """Return the layout that answered most frames per second, by the median of its windows."""
    return max(
        (way for way in samples if isinstance(way, Layout)),
        key=lambda way: statistics.median(one.frames_per_second for one in samples[way]),
    )


# -- Rows of the result ---------------------------------------------------------------------------


def rates(pipeline: str, found: Sequence[Sample], limit: Sequence[Sample]) -> dict[str, Any]:
    """Return the fields of `result.Rates`; ``limit`` are the best layout's samples by round."""
    shares = [a.frames_per_second / b.frames_per_second for a, b in zip(found, limit, strict=True)]
    return {
        "pipeline": pipeline,
        "frames_per_second": statistics.median(one.frames_per_second for one in found),
        "share": statistics.median(shares),
        "p50_seconds": statistics.median(one.p50 for one in found),
        "p99_seconds": statistics.median(one.p99 for one in found),
        "answers": sum(one.answers for one in found),
        "cpu_seconds_per_frame": statistics.median(one.cpu_per_frame for one in found),
        "client_cores": statistics.median(one.client_cores for one in found),
        "other_cores": statistics.median(one.other_cores for one in found),
    }


def layout_rows(pipeline: str, samples: Samples) -> Iterator[LayoutRow]:
    """Yield the layouts in this process."""
    best = best_layout(samples)
    for way, found in samples.items():
        if isinstance(way, Layout):
            yield LayoutRow(
                layout=way.name,
                **vars(way),
                best=way == best,
                **rates(pipeline, found, samples[best]),
            )


def served_rows(pipeline: str, samples: Samples) -> Iterator[ServedRow]:
    """Yield the clients of the servers."""
    limit = samples[best_layout(samples)]
    for way, found in samples.items():
        if isinstance(way, Served):
            cores = statistics.median(one.server_cores for one in found)
            yield ServedRow(**vars(way), server_cores=cores, **rates(pipeline, found, limit))


def batch_rows(pipeline: str, samples: Samples) -> Iterator[BatchRow]:
    """Yield the batches that were formed for every client of the servers."""
    for way, found in samples.items():
        for step in found[0].steps if isinstance(way, Served) else ():
            counts = [one.steps[step] for one in found]
            if executions := sum(count.executions for count in counts):
                yield BatchRow(
                    pipeline=pipeline,
                    **vars(way),
                    step=step,
                    executions=executions,
                    requests_per_execution=sum(count.requests for count in counts) / executions,
                    rows_per_execution=sum(count.rows for count in counts) / executions,
                )


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
@click.option("--window", type=click.FloatRange(0.1), default=1.5, help="Seconds of one window.")
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
    window: float,
    model_repository: Path,
    json_file: Path,
    markdown: Path | None,
) -> None:
    """Measure; the module's docstring is the help."""
    if any(PIPELINES[name].is_prompted for name in pipelines) and (folder or not cells):
        raise click.UsageError("prompted pipelines need rendered frames with one cell or more.")
    inside: list[LayoutRow] = []
    served: list[ServedRow] = []
    batches: list[BatchRow] = []
    try:
        frames = (
            read_frames(folder)
            if folder
            else [load_frame(*size, cells, seed) for seed in range(RENDERED)]
        )
        for pipeline in exported(model_repository, pipelines):
            samples = measure(
                model_repository,
                pipeline,
                frames,
                variants=variants_of(model_repository, pipeline),
                concurrency=concurrency,
                rounds=rounds,
                window=window,
            )
            inside += layout_rows(pipeline, samples)
            served += served_rows(pipeline, samples)
            batches += batch_rows(pipeline, samples)
    except EXPECTED as error:
        raise click.ClickException(str(error)) from error
    height, width = frames[0].image.shape[:2]
    result = ThroughputResult(
        **made_by("throughput"),
        frames=FramesSent(
            rendered=folder is None,
            count=len(frames),
            width=width,
            height=height,
            cells=cells if folder is None else None,
        ),
        rounds=rounds,
        window_seconds=window,
        in_process=tuple(inside),
        served=tuple(served),
        batches=tuple(batches),
    )
    write_result(result, throughput_page(result), json_file, markdown)


if __name__ == "__main__":
    main()
