"""Measures a whole-frame U-Net of study S2 through the server: Dice, speed, memory, pictures.

\b
    python -m benchmarks.glioma.served --data data/t98g@benchmarks/t98g/test.txt \\
        --checkpoint runs/t98g/unet --json t98g.json

Dice is that of the server's mask on frames that the checkpoint was not trained on. Seconds are end
to end. One run interleaves the server, the same ONNX graphs without it, and the same weights in
PyTorch eager mode (segmentation-models-pytorch). Memory is the peak of launcher, Triton and workers
while they answer a frame of each of the study's resolutions with three channels.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import numpy.typing as npt
from rich.progress import track

from benchmarks.glioma.tables import served_page
from benchmarks.harness.foregrounds import measure_speed, save_pictures
from benchmarks.harness.memory import PeakMemory, resident_bytes
from benchmarks.harness.options import json_option, markdown_option, repository_option
from benchmarks.harness.results import fingerprint, write_result
from benchmarks.harness.served_weights import check_weights, served_size
from benchmarks.harness.serving import serve_without_health_checks
from cytoserve import Client
from cytoserve.contract import PIPELINES
from export.unet.reference import predict_whole_frame
from server.embedded import EmbeddedServer
from training.checkpoint import CheckpointError
from training.datasets.annotated import AnnotatedDataset, AnnotatedFrame
from training.run.command_line import data_option, read_data
from training.unet.dice import RESOLUTIONS, dice_score, iou_score
from training.unet.frames import foreground_mask
from training.unet.network import load_unet

TIMEOUT = 300.0
"""Maximum seconds per frame: a large one is slow on a slow processor."""

Image = npt.NDArray[Any]


@dataclass(frozen=True)
class FrameMemory:
    """The server's memory while it answered one frame."""

    resolution: str
    height: int
    width: int
    peak_bytes: int
    """Peak memory of launcher, Triton and workers in bytes; shared pages count once."""


def measure_quality(
    client: Client, pipeline: str, frames: Sequence[AnnotatedFrame], pictures: Path | None
) -> list[dict[str, Any]]:
    """Return Dice and IoU of the server's mask per frame, and draw the masks into ``pictures``."""
    figures = []
    for frame in track(frames, "segmenting", transient=True):
        image = frame.read()
        answer, truth = client.foreground(image, pipeline), foreground_mask(frame)
        if pictures:
            save_pictures(pictures, frame.name, image, answer)
        figures.append(
            {
                "name": frame.name,
                "height": frame.height,
                "width": frame.width,
                "dice": dice_score(answer.mask, truth),
                "iou": iou_score(answer.mask, truth),
                "foreground": float(truth.mean()),
            }
        )
    return figures


def measure_memory(
    server: EmbeddedServer, client: Client, pipeline: str, image: Image, sizes: Mapping[str, Any]
) -> list[FrameMemory]:
    """Segment the image at sizes (H, W) in three channels, smallest first; return the peaks."""
    figures = []
    for name, (height, width) in sorted(sizes.items(), key=lambda item: item[1]):
        frame = _enlarged(image, height, width)
        with PeakMemory(server.pid) as memory:
            client.foreground(frame, pipeline)
        figures.append(FrameMemory(name, height, width, memory.peak))
    return figures


def _enlarged(image: Image, height: int, width: int) -> Image:
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return resized if resized.ndim == 3 else np.repeat(resized[:, :, None], 3, axis=2)


def measure(
    dataset: AnnotatedDataset,
    server: EmbeddedServer,
    pipeline: str,
    checkpoint: Path,
    *,
    repeats: int,
    timed_frames: int,
    sizes: Mapping[str, tuple[int, int]],
    pictures: Path | None,
) -> dict[str, Any]:
    """Return all figures; see the module's docstring.

    Raises:
        CheckpointError: the server answers with other weights than those of the checkpoint.
    """
    [network] = [step for step in PIPELINES[pipeline].steps if step.endswith("_network")]
    unet, recipe = load_unet(checkpoint)
    resize_to = served_size(server.repository, network)
    before = resident_bytes(server.pid)
    with Client(server.url, timeout=TIMEOUT) as client:
        check_weights(client, {(pipeline, network): checkpoint})
        timed = [frame.read() for frame in dataset.frames[:timed_frames]]
        memory = measure_memory(server, client, pipeline, timed[0], sizes)
        frames = measure_quality(client, pipeline, dataset.frames, pictures)
        speed = measure_speed(
            client,
            server.repository,
            pipeline,
            lambda image: predict_whole_frame(unet, image, resize_to),
            timed,
            repeats,
        )
    return {
        "pipeline": pipeline,
        "encoder": recipe.settings["encoder"],
        "resize_to": resize_to,
        "recipe": recipe.model_dump(mode="json"),
        "frames": frames,
        "dice": statistics.mean(frame["dice"] for frame in frames),
        "iou": statistics.mean(frame["iou"] for frame in frames),
        "speed": speed.figures(),
        "timed_frames": [frame.name for frame in dataset.frames[:timed_frames]],
        "repeats": repeats,
        "memory": {"before_bytes": before, "frames": [asdict(figure) for figure in memory]},
        "machine": fingerprint(),
    }


@click.command(help=__doc__, context_settings={"show_default": True})
@data_option
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    required=True,
    help="Checkpoint that the pipeline was exported from.",
)
@click.option(
    "--pipeline",
    type=click.Choice(["glioma_unet", "glioma_unet_livecell"]),
    default="glioma_unet",
)
@repository_option
@click.option("--repeats", type=click.IntRange(1), default=3, help="Timed rounds per frame.")
@click.option("--timed-frames", type=click.IntRange(1), default=2, help="Frames that are timed.")
@click.option(
    "--memory",
    "sizes",
    type=click.Choice(list(RESOLUTIONS)),
    multiple=True,
    default=list(RESOLUTIONS),
    help="Resolution of which the peak memory is measured.",
)
@click.option("--pictures", type=click.Path(path_type=Path), help="Folder for pictures.")
@json_option
@markdown_option
def main(
    data: tuple[str, ...],
    checkpoint: Path,
    pipeline: str,
    model_repository: Path,
    repeats: int,
    timed_frames: int,
    sizes: tuple[str, ...],
    pictures: Path | None,
    json_file: Path,
    markdown: Path | None,
) -> None:
    """Measure; the module's docstring is the help."""
    dataset, _ = read_data(data, one_class=True)
    with ExitStack() as stack:
        server = stack.enter_context(serve_without_health_checks(model_repository, [pipeline]))
        try:
            result = measure(
                dataset,
                server,
                pipeline,
                checkpoint,
                repeats=repeats,
                timed_frames=timed_frames,
                sizes={name: RESOLUTIONS[name] for name in sizes},
                pictures=pictures,
            )
        except CheckpointError as error:
            raise click.ClickException(str(error)) from error
    write_result(result, served_page(result), json_file, markdown)


if __name__ == "__main__":
    main()
