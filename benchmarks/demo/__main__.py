"""Serves the shipped networks and segments real images with them, in two minutes.

\b
    make demo

The images in `benchmarks/demo/images/` are of kinds that the networks know, and were not in their
training. Two rendered frames are added: one of 2048 x 2048 pixels, as a camera gives it, and one
without a cell. Every stage is a command that is printed as it runs. All files are in `runs/demo/`.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import click

from benchmarks.harness.results import markdown_table
from server.embedded import EmbeddedServer
from training.run.stages import Stages, begin_afresh

IMAGES = Path("benchmarks/demo/images")
SHIPPED = Path("training/general")

RENDERED = {
    "large": ("--width", "2048", "--height", "2048", "--cells", "200", "--seed", "1"),
    "empty": ("--width", "1024", "--height", "1024", "--cells", "0", "--seed", "2"),
}
"""Name of a rendered frame -> its settings."""


def gather(stages: Stages, out: Path) -> Path:
    """Put the real images and the rendered frames into one folder, and return it."""
    images = out / "images"
    images.mkdir(parents=True)
    for image in IMAGES.glob("*.png"):
        shutil.copy(image, images)
    for name, settings in RENDERED.items():
        stages.run(
            f"Rendering a frame: {name}",
            *("python", "-m", "training.rendered", out / name, "--frames", "1"),
            *("--prefix", name, *settings),
        )
        for frame in (out / name / "images").iterdir():
            shutil.copy(frame, images / f"rendered-{name}.png")
    return images


def export(stages: Stages, repository: Path) -> None:
    """Export both networks, each compared with PyTorch on the real images."""
    common: tuple[str | Path, ...] = ("--model-repository", repository, "--frames", IMAGES)
    stages.run(
        "Exporting the shipped YOLO11n-seg as the pipeline `yolo`",
        *("python", "-m", "export", "yolo", "--targets", SHIPPED / "yolo", *common),
    )
    stages.run(
        "Exporting the shipped U-Net as the pipeline `glioma_unet`",
        *("python", "-m", "export", "glioma_unet", "--checkpoint", SHIPPED / "unet", *common),
    )


def segment(stages: Stages, out: Path, images: Path, repository: Path) -> None:
    """Start Triton, and segment all images with the command line, as a user does."""
    click.secho("\nStarting the embedded Triton", bold=True)
    click.echo(f"$ python -m server --model-repository {repository} --grpc-port 0")
    with EmbeddedServer(repository) as server:
        click.echo(server.output.strip())
        for pipeline, saved in (("yolo", "labels,table,overlay"), ("glioma_unet", "overlay")):
            stages.run(
                f"Segmenting all images with `{pipeline}`",
                *("cytoserve", "segment", images, "--url", server.url, "--pipeline", pipeline),
                *("--out", out / pipeline, "--save", saved),
            )


def counted(out: Path) -> Iterator[list[str]]:
    """Yield name, cells found and confluency of every image, from the records of both runs."""
    cells, foreground = (
        json.loads((out / pipeline / "run.json").read_text())["files"]
        for pipeline in ("yolo", "glioma_unet")
    )
    for key, entry in cells.items():
        yield [key, f"{entry['cells']}", f"{foreground[key]['confluency']:.1f} %"]


@click.command(help=__doc__)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/demo"))
def main(out: Path) -> None:
    """Run all stages; the module's docstring is the help."""
    begin_afresh(out)
    start, stages = time.monotonic(), Stages("make demo", out)
    repository = out / "model_repository"
    images = gather(stages, out)
    export(stages, repository)
    segment(stages, out, images, repository)
    click.echo("\n" + markdown_table(["image", "cells", "confluency"], counted(out)))
    click.secho(f"\nDone in {time.monotonic() - start:.0f} s. Look at:", bold=True)
    click.echo(
        f"  {out}/yolo/*_overlay.png          the cells, drawn on the images\n"
        f"  {out}/yolo/*_labels.tif           label images\n"
        f"  {out}/glioma_unet/*_overlay.png   the foreground, by a small U-Net\n"
        f"Serve these models:   python -m server --model-repository {repository}\n"
        "Train on your images: python -m training.start --data YOURS --out runs/mine"
    )


if __name__ == "__main__":
    main()
