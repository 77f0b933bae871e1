"""What a frame costs as its cells grow from none to thousands: time, memory, and right answers.

\b
    python -m benchmarks.cells --json cells.json

Frames of 2048 x 2048 pixels are rendered with 0, 1, 300 and 2,000 cells and sent to a pipeline.
For each count: cells found in all frames of it, recall and precision at mask IoU 0.5, median
seconds, the size of the largest answer, and how much the server's memory peaked above where it
stood before the first frame.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

from benchmarks.machine import fingerprint, machine_note
from benchmarks.memory import PeakMemory, resident_bytes
from benchmarks.options import json_option, markdown_option, repository_option
from benchmarks.quiet_server import quiet_server
from benchmarks.result_files import write_result
from benchmarks.score_thresholds import score_threshold_option, score_thresholds
from cytoserve import Cells, Client
from cytoserve.contract import OVERLAP_THRESHOLD, PIPELINES
from server.embedded import EmbeddedServer
from training.evaluation.matching import match_cells, quality
from training.rendered import RenderSettings, render_frame

COUNTS = (0, 1, 300, 2000)
SEEDS_APART = 1000
"""Between two frames of one count; the first has the count itself as its seed."""

INSTANCE_PIPELINES = [name for name, pipeline in PIPELINES.items() if pipeline.is_instance]


@dataclass(frozen=True)
class CellCost:
    """Figures of the frames of one count."""

    cells: int
    """In each frame."""
    frames: int
    found: int
    """In all of them."""
    capped: bool
    recall: float
    precision: float
    seconds: float
    answer_bytes: int
    server_peak_bytes: int
    """Resident memory of launcher, Triton and workers, above that before the first frame."""


def measure(
    server: EmbeddedServer,
    pipeline: str,
    *,
    side: int,
    frames: int,
    repeats: int,
    score_threshold: float,
    overlap_threshold: float,
) -> list[CellCost]:
    """Send ``frames`` frames per count, each ``repeats`` times after a first, untimed time."""
    figures = []
    with Client(server.url, timeout=300) as client:
        ask = partial(
            client.segment,
            pipeline=pipeline,
            score_threshold=score_threshold,
            overlap_threshold=overlap_threshold,
        )
        before = resident_bytes(server.pid)
        for count in COUNTS:
            settings = RenderSettings(height=side, width=side, cells=count)
            answers, matches, seconds, peak = [], [], [], 0
            for number in range(frames):
                frame, truth = render_frame(settings, seed=count + number * SEEDS_APART)
                with PeakMemory(server.pid) as memory:
                    answer = ask(frame)
                peak = max(peak, memory.peak - before)
                for _ in range(repeats):
                    start = time.perf_counter()
                    ask(frame)
                    seconds.append(time.perf_counter() - start)
                answers.append(answer)
                matches.append(match_cells(answer, truth))
            figure = quality(matches)
            figures.append(
                CellCost(
                    count,
                    frames,
                    sum(map(len, answers)),
                    any(answer.capped for answer in answers),
                    figure.recall,
                    figure.precision,
                    statistics.median(seconds),
                    max(map(answer_bytes, answers)),
                    peak,
                )
            )
    return figures


def answer_bytes(cells: Cells) -> int:
    """Bytes of the arrays of an answer."""
    arrays = (cells.boxes, cells.scores, cells.class_ids, cells.class_probs, cells.patches)
    return sum(array.nbytes for array in arrays)


def cells_table(result: dict[str, Any]) -> str:
    """The figures as Markdown."""
    rows = [
        "| cells | frames | found | recall | precision | seconds | answer kB | server peak MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in result["counts"]:
        rows.append(
            f"| {row['cells']} | {row['frames']} "
            f"| {row['found']}{' (capped)' if row['capped'] else ''} "
            f"| {row['recall']:.3f} | {row['precision']:.3f} | {row['seconds']:.3f} "
            f"| {row['answer_bytes'] / 1e3:.0f} | {row['server_peak_bytes'] / 1e6:.0f} |"
        )
    thresholds = ", ".join(
        f"{name.replace('_', ' ')} {value:g}" for name, value in result["thresholds"].items()
    )
    head = (
        f"`{result['pipeline']}` on rendered frames of {result['side']} x {result['side']} px; "
        f"{thresholds}. Cells are matched at mask IoU 0.5; nan: nothing to find, or nothing found."
    )
    return "\n".join([head, "", *rows, "", machine_note(result["machine"]), ""])


@click.command(help=__doc__, context_settings={"show_default": True})
@click.option("--pipeline", type=click.Choice(INSTANCE_PIPELINES), default="yolo_resnet")
@click.option("--side", type=click.IntRange(64), default=2048, help="Frame side in pixels.")
@score_threshold_option
@click.option("--overlap-threshold", type=click.FloatRange(0, 1), default=OVERLAP_THRESHOLD)
@click.option("--frames", type=click.IntRange(1), default=1, help="Frames for every count.")
@click.option("--repeats", type=click.IntRange(1), default=3, help="Timed requests a frame.")
@repository_option
@json_option
@markdown_option
def main(
    pipeline: str,
    side: int,
    score_threshold: float | None,
    overlap_threshold: float,
    frames: int,
    repeats: int,
    model_repository: Path,
    json_file: Path,
    markdown: Path | None,
) -> None:
    """Measure; the module's docstring is the help."""
    with quiet_server(model_repository, [pipeline]) as server:
        with Client(server.url) as client:
            chosen = score_thresholds(client, [pipeline], score_threshold)
        thresholds = {"score_threshold": chosen[pipeline], "overlap_threshold": overlap_threshold}
        figures = measure(server, pipeline, side=side, frames=frames, repeats=repeats, **thresholds)
    result = {
        "pipeline": pipeline,
        "side": side,
        "thresholds": thresholds,
        "repeats": repeats,
        "counts": [asdict(figure) for figure in figures],
        "machine": fingerprint(),
    }
    write_result(result, cells_table(result), json_file, markdown)


if __name__ == "__main__":
    main()
