"""Measures the tiled U-Net of study S3 through the server: Dice, nuclei, seams and speed.

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
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from rich.progress import track
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching
from scipy.spatial import KDTree

from benchmarks.harness.in_process import InProcess
from benchmarks.harness.options import (
    checkpoint_option,
    json_option,
    markdown_option,
    repository_option,
)
from benchmarks.harness.results import made_by, write_result
from benchmarks.harness.served_weights import check_weights
from benchmarks.harness.serving import serve_without_health_checks
from benchmarks.harness.timing import measure_speed
from benchmarks.nuclei.result import LIMIT, FrameNuclei, NucleiResult, SeamFigures, served_page
from cytoserve import Client
from cytoserve.contract import TILE_SIZE, TILE_STEP
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


def measure_frame(client: Client, frame: PointFrame, radius: float) -> FrameNuclei:
    """Return Dice, IoU and nuclei of the server's answer."""
    answer = client.foreground(frame.read(), PIPELINE)
    truth = disc_mask(frame.nuclei(), (frame.height, frame.width), radius)
    assert answer.centres is not None
    return FrameNuclei(
        name=frame.path.stem,
        case=frame.case,
        dice=dice_score(answer.mask, truth),
        iou=iou_score(answer.mask, truth),
        annotated=len(frame.nuclei()),
        found=len(answer.centres),
        matched=match_points(answer.centres, frame.nuclei(), radius),
    )


def match_points(found: npt.NDArray[Any], annotated: npt.NDArray[Any], radius: float) -> int:
    """Pair points that lie within ``radius``, as many as possible, one to one; count the pairs.

    Args:
        found: ``[N, 2]``, (x, y) in frame pixels.
        annotated: ``[M, 2]``, (x, y) in frame pixels.
        radius: maximum distance of a pair in frame pixels, inclusive.
    """
    if not len(found) or not len(annotated):
        return 0
    near = KDTree(annotated).query_ball_tree(KDTree(found), radius)
    ends = np.cumsum([0, *map(len, near)])
    columns = np.array([index for row in near for index in row], int)
    graph = csr_array((np.ones(len(columns), bool), columns, ends), (len(annotated), len(found)))
    partners = maximum_bipartite_matching(graph, perm_type="column")
    return int(np.count_nonzero(partners >= 0))


OFFSETS = ((32, 32), (64, 64), (96, 0), (0, 96))
"""Shifts of the grid, (x, y) in pixels; multiples of the tiles' step would not shift it."""


def grid_shifts(
    predict: Callable[[npt.NDArray[Any]], npt.NDArray[np.uint8]],
    frame: npt.NDArray[Any],
    offsets: Sequence[tuple[int, int]] = OFFSETS,
    margin: int = TILE_SIZE,
) -> list[SeamFigures]:
    """Predict the frame whole and without its first rows and columns, and compare.

    Cutting off rows and columns shifts the grid against the content. Pixels within ``margin`` of
    the smaller frame's borders are left out, since their tiles see mirrored content in one of the
    two. With the default margin, no tile of a compared pixel reaches over a border.

    Args:
        predict: ``[H, W]`` or ``[H, W, C]`` -> probability uint8 ``[H, W]``.
        frame: the frame to shift.
        offsets: numbers of columns and rows to cut off, (x, y) each.
        margin: width of the ignored border in pixels.

    Raises:
        ValueError: an offset does not shift the grid, or leaves no pixel to compare.
    """
    height, width = frame.shape[:2]
    for x, y in offsets:
        if x % TILE_STEP == 0 and y % TILE_STEP == 0:
            raise ValueError(f"({x}, {y}) does not shift a grid of step {TILE_STEP}.")
        if min(width - x, height - y) <= 2 * margin:
            raise ValueError(
                f"a frame of {width} x {height} px, cut by ({x}, {y}), has no pixel further than "
                f"{margin} px from its borders; take a larger frame."
            )
    whole = predict(frame)
    return [_compare(whole, predict(frame[y:, x:]), (x, y), margin) for x, y in offsets]


def _compare(
    whole: npt.NDArray[np.uint8],
    shifted: npt.NDArray[np.uint8],
    offset: tuple[int, int],
    margin: int,
) -> SeamFigures:
    x, y = offset
    height, width = shifted.shape
    inner = (slice(margin, height - margin), slice(margin, width - margin))
    difference = np.abs(whole[y:, x:][inner].astype(int) - shifted[inner])
    return SeamFigures(
        offset=offset,
        pixels=difference.size,
        below_limit=float(np.mean(difference < LIMIT)),
        largest=int(difference.max()),
    )


def measure(
    frames: Sequence[PointFrame],
    server: EmbeddedServer,
    checkpoint: Path,
    *,
    repeats: int,
    timed_frames: int,
    offsets: Sequence[tuple[int, int]],
    margin: int,
) -> NucleiResult:
    """Return all figures; see the module's docstring.

    Raises:
        CheckpointError: the server answers with other weights than those of the checkpoint.
        ValueError: a frame is too small for the seam test.
    """
    unet, recipe = load_unet(checkpoint)
    timed = frames[:timed_frames]
    graphs = InProcess(server.repository, [PIPELINE])
    with Client(server.url, timeout=TIMEOUT) as client, Client(transport=graphs) as alone:
        check_weights(client, {(PIPELINE, NETWORK): checkpoint})
        radius = float(recipe.settings[RADIUS])  # every served network has one
        found = [
            measure_frame(client, frame, radius)
            for frame in track(frames, "segmenting", transient=True)
        ]

        def probability(image: Image) -> npt.NDArray[np.uint8]:
            return client.foreground(image, PIPELINE).probability

        def bind(image: Image) -> dict[str, Callable[[], object]]:
            return {
                "served": partial(client.foreground, image, PIPELINE),
                "in_process": partial(alone.foreground, image, PIPELINE),
                "study": lambda: predict_tile_by_tile(unet, image, white_level_of(image)),
            }

        seams = grid_shifts(probability, frames[0].read(), offsets, margin)
        speed = measure_speed(bind, [frame.read() for frame in timed], repeats)
    return NucleiResult(
        **made_by("nuclei.served"),
        recipe=recipe.model_dump(mode="json"),
        radius=radius,
        frames=tuple(found),
        dice=statistics.mean(frame.dice for frame in found),
        iou=statistics.mean(frame.iou for frame in found),
        seams_frame=frames[0].path.stem,
        seams=tuple(seams),
        speed=speed,
        timed_frames=tuple(frame.path.stem for frame in timed),
        repeats=repeats,
    )


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
@checkpoint_option("--checkpoint", "the network that `nuclei_unet` was exported from")
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
    json_file: Path,
    markdown: Path | None,
) -> None:
    """Measure; the module's docstring is the help."""
    frames = read_cases(data, cases)
    with serve_without_health_checks(model_repository, [PIPELINE]) as server:
        try:
            result = measure(
                frames,
                server,
                checkpoint,
                repeats=repeats,
                timed_frames=timed_frames,
                offsets=OFFSETS,
                margin=margin,
            )
        except ValueError as error:  # CheckpointError among them
            raise click.ClickException(str(error)) from error
    write_result(result, served_page(result), json_file, markdown)


if __name__ == "__main__":
    main()
