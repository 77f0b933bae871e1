"""Whether SAM's image encoder costs time beside Mask R-CNN, where each has cores of its own.

\b
    python -m benchmarks.own_cores --frames data/t98g/images --json own-cores.json

The ensemble `maskrcnn_sam` lets both networks work at the same time. On a machine whose cores one
network keeps busy alone, that saves nothing: so every session has half of the cores here, in the
server and in this process. A request should then take as long as the longer of the two branches,
each a network and what prepares its image, and SAM's decoder, which waits for both. Branches and
decoder are timed in this process, one step after the other; requests through gRPC, end to end. Both
in turn, the same frames, no answer from the response cache.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from benchmarks.in_process import InProcess
from benchmarks.load import LoadFrame, ask, read_frames
from benchmarks.machine import machine_note
from benchmarks.options import json_option, markdown_option, repository_option
from benchmarks.quiet_server import quiet_server
from benchmarks.result_files import new_result, write_result
from benchmarks.timing import WARM_UPS, in_turn
from cytoserve import Client, CytoserveError
from cytoserve.model_config import ModelConfigError
from server.errors import ServerError

PIPELINE = "maskrcnn_sam"

BRANCHES = {
    "Mask R-CNN": ("maskrcnn_prepare", "maskrcnn_network", "maskrcnn_cells"),
    "SAM's encoder": ("sam_prepare_tiles", "sam_encoder"),
}
"""Steps that wait for nothing but the frame, and for each other within a branch."""

DECODER = "sam_decoder"

TIMEOUT = 600.0
"""Seconds for one request."""


def measure(
    repository: Path, frames: Sequence[LoadFrame], *, threads: int, repeats: int
) -> dict[str, Any]:
    """Seconds of branches, decoder and requests, as medians over frames and rounds.

    Args:
        repository: a model repository with `maskrcnn_sam`.
        frames: sent in turn.
        threads: of every session, in the server and here.
        repeats: timed rounds of every frame.

    Returns:
        ``steps`` (of this process, by name), ``branches`` (by the names of `BRANCHES`),
        ``decoder``, ``request``, and ``share``: what a request takes beside the decoder, as a part
        of the longer branch.
    """
    in_process = InProcess(repository, [PIPELINE], threads)
    noted = in_process.time_steps(PIPELINE)
    here = Client(transport=in_process, timeout=TIMEOUT)
    requests: list[float] = []
    with (
        quiet_server(repository, [PIPELINE], variables={"OMP_NUM_THREADS": str(threads)}) as server,
        Client(server.url, timeout=TIMEOUT) as there,
    ):
        for frame in frames:
            ways = {
                "here": partial(ask, here, PIPELINE, frame),
                "there": partial(ask, there, PIPELINE, frame),
            }
            requests += in_turn(ways, repeats)["there"]
    steps = {name: _median_of_rounds(seconds, repeats) for name, seconds in noted.items()}
    branches = {name: sum(steps[step] for step in own) for name, own in BRANCHES.items()}
    request = statistics.median(requests)
    return {
        "steps": steps,
        "branches": branches,
        "decoder": steps[DECODER],
        "request": request,
        "share": (request - steps[DECODER]) / max(branches.values()),
    }


def _median_of_rounds(seconds: Sequence[float], repeats: int) -> float:
    """The median without each frame's warm-ups, which `in_turn` runs first."""
    rounds = repeats + WARM_UPS
    return statistics.median(s for n, s in enumerate(seconds) if n % rounds >= WARM_UPS)


def own_cores_table(result: dict[str, Any]) -> str:
    """The figures as Markdown."""
    rows = [
        *((f"{name}, in process", seconds) for name, seconds in result["branches"].items()),
        ("SAM's decoder, in process", result["decoder"]),
        (f"a request to `{PIPELINE}`, end to end", result["request"]),
    ]
    return "\n".join(
        [
            "| | s |",
            "|---|---|",
            *(f"| {name} | {seconds:.3f} |" for name, seconds in rows),
            f"| (request - decoder) / the longer of the networks | {result['share']:.2f} |",
            "",
            f"{result['frames']} frames, {result['repeats']} rounds, {result['threads']} threads "
            "a session, in the server and in process.",
            "",
            machine_note(result["machine"]),
            "",
        ]
    )


@click.command(help=__doc__, context_settings={"show_default": True})
@click.option(
    "--frames",
    "folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    required=True,
    help="Folder of images.",
)
@click.option("--first", type=click.IntRange(1), default=2, help="Only so many of them.")
@click.option("--repeats", type=click.IntRange(1), default=5, help="Timed rounds a frame.")
@repository_option
@json_option
@markdown_option
def main(
    folder: Path,
    first: int,
    repeats: int,
    model_repository: Path,
    json_file: Path,
    markdown: Path | None,
) -> None:
    """Measure; the module's docstring is the help."""
    cores = len(os.sched_getaffinity(0))
    if cores < len(BRANCHES):
        raise click.ClickException(
            f"{len(BRANCHES)} networks at the same time need as many cores; this process may use "
            f"{cores}."
        )
    threads = cores // len(BRANCHES)
    frames = read_frames(folder)[:first]
    try:
        figures = measure(model_repository, frames, threads=threads, repeats=repeats)
    except (CytoserveError, ModelConfigError, ServerError) as error:
        raise click.ClickException(str(error)) from error
    result = new_result(
        "own_cores", frames=len(frames), threads=threads, repeats=repeats, **figures
    )
    write_result(result, own_cores_table(result), json_file, markdown)


if __name__ == "__main__":
    main()
