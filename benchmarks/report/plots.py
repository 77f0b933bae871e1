"""The report's plots: turns rows of a result into bars and lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.bounds import OVERHEAD
from benchmarks.harness.results import Row, rows_by
from benchmarks.harness.serving import DEFAULT, GRPC
from benchmarks.peers.tables import OURS
from benchmarks.report.drawing import Axis, Limit, Plot, bars, lines, stacked_bars, value_text

Result = Mapping[str, Any]
Series = Mapping[str, Sequence[tuple[float, float]]]

CALL = {name: f"{name}_ms" for name in ("encode", "wire", "server", "decode")}
STEP = {name: f"{name}_ms" for name in ("queue", "input", "compute", "output")}
"""Name of a part -> its column, as `benchmarks.latency` splits a call and a step."""


AIM = Limit(OVERHEAD.limit, f"bound {value_text(OVERHEAD.limit)}")


def _served(row: Row) -> str:
    return row["pipeline"] if row["variant"] == DEFAULT else f"{row['pipeline']}, {row['variant']}"


def latency_plots(result: Result) -> list[Plot]:
    """Plot the server's overhead, the parts of a call, and the growth of latency, by pipeline."""
    ratio = Axis("seconds served / in process")
    plots = [
        bars(title, ratio, {_served(row): row[column] for row in result["overhead"]}, AIM)
        for title, column in (
            ("Overhead through gRPC", "overhead"),
            ("Overhead through shared memory", "overhead_shared_memory"),
        )
    ]
    calls = [row for row in result["cases"] if row["way"] == GRPC]
    steps = [row for row in result["steps"] if row["way"] == GRPC]
    shown = _kind(result["overhead"][0])
    plots += [
        stacked_bars(
            f"A call, {_named(shown)}",
            Axis("share of the call, %"),
            {row["pipeline"]: _parts([row], CALL) for row in calls if _kind(row) == shown},
            "ms",
        ),
        stacked_bars(
            f"Inside the server, steps added up, {_named(shown)}",
            Axis("share of all steps, %"),
            {
                name: _parts(rows, STEP)
                for name, rows in rows_by(
                    "pipeline", [r for r in steps if _kind(r) == shown]
                ).items()
            },
            "ms",
        ),
    ]
    return [*plots, *_growth(calls)]


def _growth(calls: Sequence[Row]) -> Iterator[Plot]:
    """Plot latency against cells and against pixels."""
    of_size, of_cells, size, cells = _crossed(calls)
    for title, axis, rows in (
        (f"Latency against cells, {size[0]} x {size[1]} px", "cells", of_size),
        (f"Latency against pixels, {cells} cells", "megapixels", of_cells),
    ):
        milliseconds = Axis("milliseconds, p50", log=True)
        lined = _series(rows, "pipeline", axis, "p50_ms")
        yield lines(title, Axis(axis, log=True), milliseconds, lined)


def fields_plots(result: Result) -> list[Plot]:
    """Plot F1 against the size of a frame, and against the factor by which it was resized."""
    told = [{**row, "way": f"{row['pipeline']}, {row['told']} told"} for row in result["factors"]]
    fields = Axis("training fields of the frame", log=True)
    sizes = _series(result["sizes"], "pipeline", "fields", "f1")
    factors = _series(told, "way", "factor", "f1")
    return [
        lines("F1 against size", fields, Axis("F1"), sizes),
        lines("F1 against scale", Axis("resized by"), Axis("F1"), factors),
    ]


def throughput_plots(result: Result) -> list[Plot]:
    """Plot frames per second of each pipeline against requests at a time, below its limit."""
    return [
        lines(
            f"Throughput of {pipeline}",
            Axis("requests at a time", log=True),
            Axis("frames per second"),
            _series(
                [{**row, "way": f"{row['variant']}, {row['client']}"} for row in rows],
                *("way", "concurrency", "frames_per_second"),
            ),
            [
                Limit(row["frames_per_second"], "the most without a server")
                for row in result["in_process"]
                if row["pipeline"] == pipeline and row["best"]
            ],
        )
        for pipeline, rows in rows_by("pipeline", result["served"]).items()
    ]


def _kind(row: Row) -> tuple[int, int, int]:
    return row["width"], row["height"], row["cells"]


def _named(kind: tuple[int, int, int]) -> str:
    return "{} x {} px, {} cells".format(*kind)


def _parts(rows: Sequence[Row], columns: Mapping[str, str]) -> dict[str, float]:
    """Return name of a part -> its sum over rows."""
    return {name: sum(row[column] for row in rows) for name, column in columns.items()}


def _crossed(
    rows: Sequence[Row],
) -> tuple[list[Row], list[Row], tuple[int, int], int]:
    """Find the rows in which only the cells differ, and those in which only the pixels differ.

    Returns:
        rows of the commonest size, rows of the commonest count of cells with their
        ``megapixels``, that size (width, height), that count.
    """
    size = _commonest((row["width"], row["height"]) for row in rows)
    cells = _commonest(row["cells"] for row in rows)
    return (
        [row for row in rows if (row["width"], row["height"]) == size],
        [
            {**row, "megapixels": row["width"] * row["height"] / 1e6}
            for row in rows
            if row["cells"] == cells
        ],
        size,
        cells,
    )


def _commonest(values: Iterable[Any]) -> Any:
    return Counter(values).most_common(1)[0][0]


def peers_plots(result: Result) -> list[Plot]:
    """Plot every contender on the first kind of frame: one client alone, and many clients."""
    first = _kind(result["frames"][0])
    rows = [row for row in result["frames"] if _kind(row) == first]
    clients = result["clients"]
    return [
        bars(
            f"{pipeline}, {what}, {_named(first)}",
            Axis(unit),
            {row["way"]: row[column] * scale for row in own},
            highlighted=OURS,
        )
        for pipeline, own in rows_by("pipeline", rows).items()
        for what, unit, column, scale in (
            ("one client", "milliseconds a frame, less is better", "seconds", 1e3),
            (f"{clients} clients", "frames per second, more is better", "frames_per_second", 1),
        )
    ]


def scaling_plots(result: Result) -> list[Plot]:
    """Plot the growth of memory and time with cells, pixels, clients and pipelines."""
    measured = [row for row in result["frames"] if row["peak_mb"] is not None]
    of_size, of_cells, size, cells = _crossed(measured)
    megabytes = Axis("peak of the server's memory, MB above idle")
    loaded = {"server": [(row["pipelines"], row["memory_mb"]) for row in result["loaded"]]}
    return [
        lines(
            f"Memory against cells, {size[0]} x {size[1]} px",
            Axis("cells", log=True),
            megabytes,
            _series(of_size, "pipeline", "cells", "peak_mb"),
        ),
        lines(
            f"Memory against pixels, {cells} cells",
            Axis("megapixels", log=True),
            megabytes,
            _series(of_cells, "pipeline", "megapixels", "peak_mb"),
        ),
        lines(
            "Latency against clients",
            Axis("clients that ask at once", log=True),
            Axis("milliseconds, median", log=True),
            _series(result["clients"], "pipeline", "clients", "p50_ms"),
        ),
        lines("Memory against pipelines", Axis("pipelines loaded"), Axis("MB at rest"), loaded),
    ]


def variants_plots(result: Result) -> list[Plot]:
    """Plot the speedup of each variant of the repository, by pipeline."""
    speedup = Axis("seconds of the default / of the variant")
    return [
        bars(
            f"Variant {variant}",
            speedup,
            {row["pipeline"]: row["speedup"] for row in rows},
            Limit(1, "the default"),
        )
        for variant, rows in rows_by("variant", result["rows"]).items()
    ]


def _series(rows: Sequence[Row], name: str, x: str, y: str) -> Series:
    """Return the points (x, y) of one line per name."""
    return {
        key: [(float(row[x]), float(row[y])) for row in group]
        for key, group in rows_by(name, rows).items()
    }
