"""Measures how time and memory grow with pixels, cells and pipelines.

\b
    python -m benchmarks.scaling --json scaling.json

Each exported pipeline gets its own server, which receives frames of growing size, then frames with
growing numbers of cells. Then servers with one pipeline, two, and so on up to all show what another
one costs in memory and in time to start. The slopes of least-squares lines give the cost of one
more megapixel, cell or pipeline. `benchmarks.throughput` measures growing numbers of clients. The
server's peak memory with the most cells is compared with a mask of the frame's size for every cell,
of which it must stay a small part.

Semantic pipelines get frames with one count of cells, since cells make no difference to them. The
server does not cache answers (`--response-cache-mb=0`), and sends no canaries meanwhile.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.progress import track

from benchmarks.harness.load import Case, ask, asked, count_answered, cross, exported
from benchmarks.harness.memory import PeakMemory, resident_bytes
from benchmarks.harness.options import (
    counts_option,
    json_option,
    markdown_option,
    pipelines_option,
    repository_option,
    sizes_option,
)
from benchmarks.harness.results import made_by, write_result
from benchmarks.harness.serving import serve_without_health_checks
from benchmarks.harness.timing import Slope
from benchmarks.scaling.result import (
    GrowthRow,
    LoadedRow,
    MemoryRow,
    ScalingResult,
    SlopeRow,
    scaling_page,
)
from cytoserve import Client
from cytoserve.contract import PIPELINES
from server.embedded import EmbeddedServer
from server.errors import ServerError

DEADLINE = 600.0
"""Maximum seconds per frame, and for the server's start."""

MOST = 30
"""Maximum requests of one kind: more would only sharpen the last digit."""

MB = 1e6
"""Bytes per megabyte."""


def measure(
    repository: Path,
    pipelines: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    counts: Sequence[int],
    *,
    seconds: float,
    fewest: int,
) -> ScalingResult:
    """Measure everything."""
    cases = smallest_first(cross(sizes, counts))
    frames: list[GrowthRow] = []
    for name in track(pipelines, "frames", transient=True):
        with serve_without_health_checks(repository, [name], timeout=DEADLINE) as server:
            frames += grow_frames(server, name, cases, seconds=seconds, fewest=fewest)
    loaded = load_pipelines(repository, pipelines)
    return ScalingResult(
        **made_by("scaling"),
        seconds=seconds,
        fewest=fewest,
        frames=tuple(frames),
        loaded=tuple(loaded),
        memory=tuple(memory_of_masks(frames)),
        slopes=tuple(slopes(frames, loaded)),
    )


def smallest_first(cases: Sequence[Case]) -> list[Case]:
    """Order frames so that most are larger than all before, in pixels and in cells."""
    return sorted(cases, key=lambda case: (case.width * case.height, case.cells))


def grow_frames(
    server: EmbeddedServer, pipeline: str, cases: Sequence[Case], *, seconds: float, fewest: int
) -> list[GrowthRow]:
    """Send frames in their order to a server that has not answered any before.

    Memory is that of the first request of a kind, above the server's memory before all frames. It
    is given only for frames that are larger than all before, in pixels and in cells.
    """
    rows: list[GrowthRow] = []
    with Client(server.url, timeout=DEADLINE) as client:
        before = resident_bytes(server.pid)
        for case in asked(pipeline, cases):
            call = partial(ask, client, pipeline, case.frame())
            with PeakMemory(server.pid) as memory:
                answer = call()
            largest = all(
                case.megapixels >= row.megapixels and case.cells >= row.cells for row in rows
            )
            times = repeated(call, seconds=seconds, fewest=fewest)
            rows.append(
                GrowthRow(
                    pipeline=pipeline,
                    **vars(case),
                    megapixels=case.megapixels,
                    found=count_answered(answer),
                    requests=len(times),
                    p50_ms=statistics.median(times) * 1e3,
                    peak_mb=(memory.peak - before) / MB if largest else None,
                )
            )
    return rows


def load_pipelines(repository: Path, pipelines: Sequence[str]) -> list[LoadedRow]:
    """Start a server with the first pipeline, the first two, and so on; measure time and memory."""
    rows = []
    for count in range(1, len(pipelines) + 1):
        start = time.perf_counter()
        with EmbeddedServer(repository, pipelines[:count], timeout=DEADLINE) as server:
            started = time.perf_counter() - start
            memory = resident_bytes(server.pid) / MB
        rows.append(
            LoadedRow(
                pipelines=count, added=pipelines[count - 1], start_s=started, memory_mb=memory
            )
        )
    return rows


def repeated(call: Callable[[], object], *, seconds: float, fewest: int) -> list[float]:
    """Repeat a call until ``seconds`` are used, at least ``fewest`` times; return its seconds."""
    times: list[float] = []
    while len(times) < fewest or (sum(times) < seconds and len(times) < MOST):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


def slopes(frames: Sequence[GrowthRow], loaded: Sequence[LoadedRow]) -> list[SlopeRow]:
    """Return the slopes of every pipeline that has points at two places or more.

    With the pixels, the cells stay the same; with the cells, the pixels do: of the points of a
    line, those with the most frequent ones count.
    """
    found = []
    for name in dict.fromkeys(row.pipeline for row in frames):
        own = [row for row in frames if row.pipeline == name]
        for x, y, unit, fixed in (
            ("megapixels", "p50_ms", "ms per megapixel", "cells"),
            ("megapixels", "peak_mb", "MB per megapixel", "cells"),
            ("found", "p50_ms", "ms per cell", "size"),
            ("found", "peak_mb", "MB per cell", "size"),
        ):
            points = [row for row in own if getattr(row, y) is not None]
            common = statistics.mode(getattr(row, fixed) for row in points)
            same = [row for row in points if getattr(row, fixed) == common]
            found += _slope(name, x, y, unit, same)
    found += _slope("all", "pipelines", "start_s", "s per pipeline", loaded)
    return found + _slope("all", "pipelines", "memory_mb", "MB per pipeline", loaded)


def _slope(pipeline: str, x: str, y: str, unit: str, rows: Sequence[Any]) -> list[SlopeRow]:
    points = [getattr(row, x) for row in rows], [getattr(row, y) for row in rows]
    if len(set(points[0])) < 2:
        return []
    line = Slope.through(*points)
    return [SlopeRow(pipeline=pipeline, unit=unit, x=x, y=y, **asdict(line))]


def memory_of_masks(frames: Sequence[GrowthRow]) -> list[MemoryRow]:
    """Compare the peak memory of every pipeline that finds cells with masks of the frame's size.

    The frame is that with the most cells of which half or more were found. With few cells, the
    network itself needs most of the memory.
    """
    rows = []
    for name in dict.fromkeys(row.pipeline for row in frames):
        peaks = {
            row: row.peak_mb
            for row in frames
            if row.pipeline == name and row.peak_mb is not None and row.found >= row.cells / 2
        }
        if PIPELINES[name].is_semantic or not peaks:
            continue
        most = max(peaks, key=lambda row: row.found)
        masks = most.found * most.width * most.height / MB
        rows.append(
            MemoryRow(
                pipeline=name,
                width=most.width,
                height=most.height,
                cells=most.cells,
                found=most.found,
                peak_mb=peaks[most],
                masks_mb=masks,
                share=peaks[most] / masks if masks else None,
            )
        )
    return rows


@click.command(help=__doc__, context_settings={"show_default": True})
@pipelines_option
@sizes_option
@counts_option
@click.option("--seconds", type=click.FloatRange(0), default=1.0, help="Of requests of one kind.")
@click.option("--fewest", type=click.IntRange(1), default=1, help="Requests of one kind.")
@repository_option
@json_option
@markdown_option
def main(
    pipelines: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    counts: Sequence[int],
    seconds: float,
    fewest: int,
    model_repository: Path,
    json_file: Path,
    markdown: Path | None,
) -> None:
    """Measure; the module's docstring is the help."""
    names = exported(model_repository, pipelines)
    try:
        result = measure(model_repository, names, sizes, counts, seconds=seconds, fewest=fewest)
    except ServerError as error:
        raise click.ClickException(str(error)) from error
    write_result(result, scaling_page(result), json_file, markdown)


if __name__ == "__main__":
    main()
