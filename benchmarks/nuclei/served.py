"""Measures the tiled U-Net of study S3 through the server: Dice, nuclei, seams, speed, pictures.

\b
    python -m benchmarks.nuclei.served --data data/BreCaHAD --test-case Case_12 \\
        --checkpoint runs/brecahad/served --json brecahad.json

The server gets whole frames of cases that the checkpoint was not trained on, and cleans, tiles,
predicts and stitches. Dice compares its mask with discs around the annotated centres, of the
training's radius. A nucleus is found if one of the server's centres is within that radius of its
point, one to one. To measure seams, the frame's first rows and columns are cut off, which shifts
the grid of tiles. Seconds are end to end. One run interleaves the server, the same ONNX graphs
without it, and the same weights tile by tile in PyTorch.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from rich.progress import track

from benchmarks.harness.foregrounds import measure_speed, save_pictures
from benchmarks.harness.memory import PeakMemory
from benchmarks.harness.options import json_option, markdown_option, repository_option
from benchmarks.harness.results import fingerprint, write_result
from benchmarks.harness.served_weights import check_weights
from benchmarks.harness.serving import serve_without_health_checks
from benchmarks.nuclei.measures import OFFSETS, PointMatches, grid_shifts, match_points, together
from benchmarks.nuclei.tables import served_page
from cytoserve import Client
from cytoserve.contract import TILE_SIZE
from export.parity.foregrounds import white_level_of
from export.unet.reference import predict_tile_by_tile
from export.unet.steps import RADIUS
from server.embedded import EmbeddedServer
from training.datasets.readers.brecahad import PointFrame, disc_mask, read_brecahad
from training.unet.dice import dice_score, iou_score
from training.unet.network import load_unet

PIPELINE, NETWORK = "nuclei_unet", "nuclei_network"

TIMEOUT = 300.0
"""Maximum seconds per frame."""

Image = npt.NDArray[Any]


def measure_quality(
    client: Client, frames: Sequence[PointFrame], radius: float, pictures: Path | None
) -> list[dict[str, Any]]:
    """Return Dice, IoU and nuclei per frame, and draw the answers into ``pictures``."""
    figures = []
    for frame in track(frames, "segmenting", transient=True):
        image = frame.read()
        answer = client.foreground(image, PIPELINE)
        truth = disc_mask(frame.nuclei(), (frame.height, frame.width), radius)
        assert answer.centres is not None
        nuclei = match_points(answer.centres, frame.nuclei(), radius)
        if pictures:
            save_pictures(pictures, frame.path.stem, image, answer)
        figures.append(
            {
                "name": frame.path.stem,
                "case": frame.case,
                "dice": dice_score(answer.mask, truth),
                "iou": iou_score(answer.mask, truth),
                **nuclei_figures(nuclei),
            }
        )
    return figures


def nuclei_figures(nuclei: PointMatches) -> dict[str, Any]:
    """Return counts and shares of nuclei by name."""
    return {**asdict(nuclei), "recall": nuclei.recall, "matched_share": nuclei.matched_share}


def measure(
    frames: Sequence[PointFrame],
    server: EmbeddedServer,
    checkpoint: Path,
    *,
    repeats: int,
    timed_frames: int,
    offsets: Sequence[tuple[int, int]],
    margin: int,
    pictures: Path | None,
) -> dict[str, Any]:
    """Return all figures; see the module's docstring.

    Raises:
        CheckpointError: the server answers with other weights than those of the checkpoint.
        ValueError: a frame is too small for the seam test.
    """
    unet, recipe = load_unet(checkpoint)
    timed = [frame.read() for frame in frames[:timed_frames]]
    with Client(server.url, timeout=TIMEOUT) as client:
        check_weights(client, {(PIPELINE, NETWORK): checkpoint})
        radius = float(recipe.settings[RADIUS])  # every served network has one
        with PeakMemory(server.pid) as memory:
            figures = measure_quality(client, frames, radius, pictures)

        def probability(image: Image) -> npt.NDArray[np.uint8]:
            return client.foreground(image, PIPELINE).probability

        seams = grid_shifts(probability, timed[0], offsets, margin)
        speed = measure_speed(
            client,
            server.repository,
            PIPELINE,
            lambda image: predict_tile_by_tile(unet, image, white_level_of(image)),
            timed,
            repeats,
        )
    counts = [PointMatches(f["annotated"], f["found"], f["matched"]) for f in figures]
    return {
        "recipe": recipe.model_dump(mode="json"),
        "radius": radius,
        "frames": figures,
        "dice": statistics.mean(frame["dice"] for frame in figures),
        "iou": statistics.mean(frame["iou"] for frame in figures),
        "nuclei": nuclei_figures(together(counts)),
        "seams": {"frame": frames[0].path.stem, "shifts": [asdict(seam) for seam in seams]},
        "speed": speed.figures(),
        "timed_frames": [frame.path.stem for frame in frames[:timed_frames]],
        "repeats": repeats,
        "peak_bytes": memory.peak,
        "machine": fingerprint(),
    }


def read_cases(data: Path, cases: Sequence[str]) -> list[PointFrame]:
    """Return the frames of ``cases``.

    Raises:
        click.UsageError: the folder cannot be read, or has no frame of a case.
    """
    try:
        frames = read_brecahad(data)
    except (ValueError, OSError) as error:
        raise click.UsageError(f"--data {data}: {error}") from error
    known = sorted({frame.case for frame in frames})
    unknown = [case for case in cases if case not in known]
    if unknown:
        raise click.UsageError(
            f"--test-case {', '.join(unknown)}: no frame is of it; {data} has {', '.join(known)}."
        )
    return [frame for frame in frames if frame.case in cases]


@click.command(help=__doc__, context_settings={"show_default": True})
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    required=True,
    help="Folder of images/ and groundTruth/, as BreCaHAD's authors lay it out.",
)
@click.option(
    "--test-case", "cases", multiple=True, required=True, help="Case that was not trained on."
)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    required=True,
    help="Checkpoint that `nuclei_unet` was exported from.",
)
@repository_option
@click.option("--repeats", type=click.IntRange(1), default=3, help="Timed rounds per frame.")
@click.option("--timed-frames", type=click.IntRange(1), default=1, help="Frames that are timed.")
@click.option(
    "--seam-margin",
    "margin",
    type=click.IntRange(0),
    default=TILE_SIZE,
    help="Pixels at the frame's borders that the seam test leaves out.",
)
@click.option("--pictures", type=click.Path(path_type=Path), help="Folder for pictures.")
@json_option
@markdown_option
def main(
    data: Path,
    cases: tuple[str, ...],
    checkpoint: Path,
    model_repository: Path,
    repeats: int,
    timed_frames: int,
    margin: int,
    pictures: Path | None,
    json_file: Path,
    markdown: Path | None,
) -> None:
    """Measure; the module's docstring is the help."""
    frames = read_cases(data, cases)
    with ExitStack() as stack:
        server = stack.enter_context(serve_without_health_checks(model_repository, [PIPELINE]))
        try:
            result = measure(
                frames,
                server,
                checkpoint,
                repeats=repeats,
                timed_frames=timed_frames,
                offsets=OFFSETS,
                margin=margin,
                pictures=pictures,
            )
        except ValueError as error:  # CheckpointError among them
            raise click.ClickException(str(error)) from error
    write_result(result, served_page(result), json_file, markdown)


if __name__ == "__main__":
    main()
