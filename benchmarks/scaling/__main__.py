"""Measures how time and memory grow with pixels, cells, clients and pipelines.

\b
    python -m benchmarks.scaling --json scaling.json

Each exported pipeline gets its own server, which receives frames of growing size, then frames with
growing numbers of cells, then frames from several clients at once. Then servers with one pipeline,
two, and so on up to all show what another one costs in memory and in time to start. The slopes of
least-squares lines give the cost of one more megapixel, cell, client or pipeline.

Two of the figures are ratios that must stay small:

\b
    classified   time that a further cell costs `yolo_resnet` beyond `yolo` / time of the
                 classifier's graph alone for a crop, all interleaved
    memory       the server's peak memory with the most cells / memory of a mask of the
                 frame's size for every cell

Semantic pipelines get frames with one count of cells, since cells make no difference to them. The
server does not cache answers (`--response-cache-mb=0`), and sends no canaries meanwhile.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.progress import track

from benchmarks.harness.load import Case, cross, exported
from benchmarks.harness.options import (
    counts_option,
    json_option,
    markdown_option,
    pipelines_option,
    repository_option,
    sizes_option,
)
from benchmarks.harness.results import new_result, write_result
from benchmarks.harness.serving import serve_without_health_checks
from benchmarks.harness.timing import Slope, slopes
from benchmarks.scaling.load import (
    DEADLINE,
    MB,
    ONE_STEP,
    TWO_STEPS,
    Rows,
    grow_classified,
    grow_clients,
    grow_frames,
    load_pipelines,
)
from benchmarks.scaling.tables import scaling_table
from cytoserve.contract import PIPELINES
from server.errors import ServerError

CLIENTS = (1, 2, 4, 8)

CLIENTS_AT = Case(1024, 1024, 15)
"""Kind of frame that several clients send."""


def measure(
    repository: Path,
    pipelines: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    counts: Sequence[int],
    clients: Sequence[int],
    *,
    seconds: float,
    fewest: int,
) -> dict[str, Any]:
    """Measure everything; return the keys of the JSON file, all lists of rows except the last."""
    cases = smallest_first(cross(sizes, counts))
    rows: dict[str, Rows] = {"frames": [], "clients": []}
    for name in track(pipelines, "frames and clients", transient=True):
        with serve_without_health_checks(repository, [name], timeout=DEADLINE) as server:
            rows["frames"] += grow_frames(server, name, cases, seconds=seconds, fewest=fewest)
            rows["clients"] += grow_clients(server, name, clients, CLIENTS_AT, seconds=seconds)
    rows["loaded"] = load_pipelines(repository, pipelines)
    result: dict[str, Any] = {
        **rows,
        "memory": memory_of_masks(rows["frames"]),
        "slopes": slopes(rows),
        "classified": [],
    }
    if {ONE_STEP, TWO_STEPS} <= set(pipelines) and len(counts) > 1:
        cells = [case for case in cases if (case.width, case.height) == size_of_cells(cases)]
        with serve_without_health_checks(
            repository, [ONE_STEP, TWO_STEPS], timeout=DEADLINE
        ) as server:
            found = grow_classified(server, cells, seconds=seconds, fewest=fewest)
        result |= {"classified": found, "classifier": cost_of_a_cell(found)}
    return result


def smallest_first(cases: Sequence[Case]) -> list[Case]:
    """Order frames so that most are larger than all before, in pixels and in cells."""
    return sorted(cases, key=lambda case: (case.width * case.height, case.cells))


def size_of_cells(cases: Sequence[Case]) -> tuple[int, int]:
    """Return width and height of the frames with growing numbers of cells: the most frequent."""
    return statistics.mode((case.width, case.height) for case in cases)


def memory_of_masks(frames: Sequence[Mapping[str, Any]]) -> Rows:
    """Compare the peak memory of every pipeline that finds cells with masks of the frame's size.

    The frame is that with the most cells of which half or more were found. With few cells, the
    network itself needs most of the memory. A mask takes one byte per pixel.
    """
    rows: Rows = []
    for name in dict.fromkeys(row["pipeline"] for row in frames):
        own = [
            row
            for row in frames
            if row["pipeline"] == name
            and row["peak_mb"] is not None
            and row["found"] >= row["cells"] / 2
        ]
        if PIPELINES[name].is_semantic or not own:
            continue
        most = max(own, key=lambda row: row["found"])
        masks = most["found"] * most["width"] * most["height"] / MB
        kept = ("pipeline", "width", "height", "cells", "found", "peak_mb")
        rows.append(
            {
                **{column: most[column] for column in kept},
                "masks_mb": masks,
                "share": most["peak_mb"] / masks if masks else None,
            }
        )
    return rows


def cost_of_a_cell(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the cost of classifying one more cell in the pipeline, and in the classifier alone."""
    line = {
        name: Slope.through(
            [row[f"found_{name}"] for row in rows], [row[f"{name}_ms"] for row in rows]
        )
        for name in (ONE_STEP, TWO_STEPS)
    }
    crops = sum(row["classifier_crops"] for row in rows)
    alone = sum(row["classifier_ms"] for row in rows) / crops
    marginal = line[TWO_STEPS].slope - line[ONE_STEP].slope
    return {
        **{f"{name}_ms_per_cell": each.slope for name, each in line.items()},
        "marginal_ms_per_cell": marginal,
        "classifier_ms_per_crop": alone,
        "ratio": marginal / alone,
    }


@click.command(help=__doc__, context_settings={"show_default": True})
@pipelines_option
@sizes_option
@counts_option
@click.option(
    "--clients", type=click.IntRange(1), multiple=True, default=CLIENTS, help="That ask at once."
)
@click.option("--seconds", type=click.FloatRange(0), default=1.0, help="Of requests of one kind.")
@click.option("--fewest", type=click.IntRange(1), default=1, help="Requests of one kind.")
@repository_option
@json_option
@markdown_option
def main(
    pipelines: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    counts: Sequence[int],
    clients: Sequence[int],
    seconds: float,
    fewest: int,
    model_repository: Path,
    json_file: Path,
    markdown: Path | None,
) -> None:
    """Measure; the module's docstring is the help."""
    names = exported(model_repository, pipelines)
    try:
        measured = measure(
            model_repository,
            names,
            sizes,
            counts,
            sorted(set(clients)),
            seconds=seconds,
            fewest=fewest,
        )
    except ServerError as error:
        raise click.ClickException(str(error)) from error
    result = new_result("scaling", seconds=seconds, fewest=fewest, **measured)
    write_result(result, scaling_table(result), json_file, markdown)


if __name__ == "__main__":
    main()
