"""Measures a whole-frame U-Net of study S2 through the server: Dice and speed.

\b
    python -m benchmarks.glioma.served --data data/t98g@benchmarks/t98g/test.txt \\
        --checkpoint runs/t98g/unet --json t98g.json

Dice is that of the server's mask on frames that the checkpoint was not trained on. Seconds are end
to end. One run interleaves the server, the same ONNX graphs without it, and the same weights in
PyTorch eager mode (segmentation-models-pytorch).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy.typing as npt
from rich.progress import track

from benchmarks.glioma.result import FrameDice, GliomaResult, served_page
from benchmarks.harness.in_process import InProcess
from benchmarks.harness.options import (
    checkpoint_option,
    json_option,
    markdown_option,
    repository_option,
)
from benchmarks.harness.results import made_by, write_result
from benchmarks.harness.served_weights import check_weights, served_size
from benchmarks.harness.serving import serve_without_health_checks
from benchmarks.harness.timing import measure_speed
from cytoserve import Client
from cytoserve.contract import PIPELINES
from export.unet.reference import predict_whole_frame
from server.embedded import EmbeddedServer
from training.checkpoint import CheckpointError
from training.datasets.annotated import AnnotatedDataset, AnnotatedFrame
from training.run.command_line import data_option, read_data
from training.unet.dice import dice_score, iou_score
from training.unet.frames import foreground_mask
from training.unet.network import load_unet

TIMEOUT = 300.0
"""Maximum seconds per frame: a large one is slow on a slow processor."""

Image = npt.NDArray[Any]


def measure_frame(client: Client, pipeline: str, frame: AnnotatedFrame) -> FrameDice:
    """Return Dice and IoU of the server's mask."""
    answer, truth = client.foreground(frame.read(), pipeline), foreground_mask(frame)
    return FrameDice(
        name=frame.name,
        height=frame.height,
        width=frame.width,
        dice=dice_score(answer.mask, truth),
        iou=iou_score(answer.mask, truth),
        foreground=float(truth.mean()),
    )


def measure(
    dataset: AnnotatedDataset,
    server: EmbeddedServer,
    pipeline: str,
    checkpoint: Path,
    *,
    repeats: int,
    timed_frames: int,
) -> GliomaResult:
    """Return all figures; see the module's docstring.

    Raises:
        CheckpointError: the server answers with other weights than those of the checkpoint.
    """
    [network] = [step for step in PIPELINES[pipeline].steps if step.endswith("_network")]
    unet, recipe = load_unet(checkpoint)
    resize_to = served_size(server.repository, network)
    timed = dataset.frames[:timed_frames]
    graphs = InProcess(server.repository, [pipeline])
    with Client(server.url, timeout=TIMEOUT) as client, Client(transport=graphs) as alone:
        check_weights(client, {(pipeline, network): checkpoint})
        frames = [
            measure_frame(client, pipeline, frame)
            for frame in track(dataset.frames, "segmenting", transient=True)
        ]

        def bind(image: Image) -> dict[str, Callable[[], object]]:
            return {
                "served": partial(client.foreground, image, pipeline),
                "in_process": partial(alone.foreground, image, pipeline),
                "study": partial(predict_whole_frame, unet, image, resize_to),
            }

        speed = measure_speed(bind, [frame.read() for frame in timed], repeats)
    return GliomaResult(
        **made_by("glioma.served"),
        pipeline=pipeline,
        resize_to=resize_to,
        recipe=recipe.model_dump(mode="json"),
        frames=tuple(frames),
        dice=statistics.mean(frame.dice for frame in frames),
        iou=statistics.mean(frame.iou for frame in frames),
        speed=speed,
        timed_frames=tuple(frame.name for frame in timed),
        repeats=repeats,
    )


@click.command(help=__doc__, context_settings={"show_default": True})
@data_option
@checkpoint_option("--checkpoint", "the network that the pipeline was exported from")
@click.option(
    "--pipeline",
    type=click.Choice(["glioma_unet", "glioma_unet_livecell"]),
    default="glioma_unet",
)
@repository_option
@click.option("--repeats", type=click.IntRange(1), default=3, help="Timed rounds per frame.")
@click.option("--timed-frames", type=click.IntRange(1), default=2, help="Frames that are timed.")
@json_option
@markdown_option
def main(
    data: tuple[str, ...],
    checkpoint: Path,
    pipeline: str,
    model_repository: Path,
    repeats: int,
    timed_frames: int,
    json_file: Path,
    markdown: Path | None,
) -> None:
    """Measure; the module's docstring is the help."""
    dataset, _ = read_data(data, one_class=True)
    with serve_without_health_checks(model_repository, [pipeline]) as server:
        try:
            result = measure(
                dataset, server, pipeline, checkpoint, repeats=repeats, timed_frames=timed_frames
            )
        except CheckpointError as error:
            raise click.ClickException(str(error)) from error
    write_result(result, served_page(result), json_file, markdown)


if __name__ == "__main__":
    main()
