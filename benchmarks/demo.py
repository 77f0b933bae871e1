"""The whole way in minutes: rendered cells, short training, export, server, both approaches of S1.

\b
    make demo

Every stage is one of the commands that the README shows for a user's own images, printed as it is
run. All that it leaves is in `runs/demo/`; the models are exported into a copy of the model
repository there, so nothing that is served elsewhere changes.
"""

from __future__ import annotations

import time
from pathlib import Path

import click

from benchmarks.repository import copy_repository
from benchmarks.stages import Stages, begin_afresh, precision_options
from server.embedded import EmbeddedServer

FRAMES = {"general": 40, "target": 16, "test": 8}
"""Rendered frames by use; the study had 600 general frames and 16 target frames."""


def train(stages: Stages, out: Path, data: Path) -> None:
    """Render the data and train the three networks, each into a folder of ``out``."""
    for seed, (use, count) in enumerate(FRAMES.items(), start=1):
        options = ["--frames", str(count), "--seed", str(seed), "--width", "640", "--height", "480"]
        stages.run(
            f"Rendering {count} {use} frames",
            "python",
            "-m",
            "training.rendered",
            data / use,
            *options,
        )
    fast = precision_options()
    stages.run(
        "Training YOLO11n-seg on the general frames, one class",
        *("python", "-m", "training.yolo", "general", "--preset", "demo", *fast),
        *("--data", data / "general", "--out", out / "general"),
    )
    stages.run(
        "Approach 1: fine-tuning it to the two target classes",
        *("python", "-m", "training.yolo", "fine-tune", "--preset", "demo", *fast),
        *("--data", data / "target", "--init", out / "general", "--out", out / "targets"),
    )
    stages.run(
        "Approach 2: cutting the target frames into crops",
        *("python", "-m", "training.crops", "--data", data / "target", "--out", out / "crops"),
    )
    stages.run(
        "Approach 2: training ResNet50 on the crops",
        *("python", "-m", "training.resnet", "--preset", "demo", *fast),
        *("--crops", out / "crops", "--out", out / "classifier"),
    )


def export(stages: Stages, out: Path, repository: Path) -> None:
    """Export both pipelines into a fresh copy of the hand-written repository."""
    copy_repository(repository)
    stages.run(
        "Exporting pipeline `yolo`, every graph compared with PyTorch",
        *("python", "-m", "export", "yolo", "--targets", out / "targets"),
        *("--model-repository", repository),
    )
    stages.run(
        "Exporting pipeline `yolo_resnet`",
        *("python", "-m", "export", "yolo_resnet", "--cells", out / "general"),
        *("--classifier", out / "classifier", "--model-repository", repository),
    )


def serve_and_measure(stages: Stages, out: Path, data: Path, repository: Path) -> None:
    """Start Triton, segment the unseen frames with the CLI, print the study's table."""
    click.secho("\nStarting the embedded Triton", bold=True)
    click.echo(f"$ python -m server --model-repository {repository} --grpc-port 0")
    with EmbeddedServer(repository) as server:
        click.echo(server.output.strip())
        for pipeline in ("yolo", "yolo_resnet"):
            stages.run(
                f"Segmenting {FRAMES['test']} unseen frames with `{pipeline}`",
                *("cytoserve", "segment", data / "test" / "images", "--url", server.url),
                *("--pipeline", pipeline, "--out", out / pipeline),
                *("--save", "labels,table,overlay"),
            )
        stages.run(
            "Comparing both approaches with the study, and the server with PyTorch",
            *(
                "python",
                "-m",
                "benchmarks.approaches",
                "--data",
                data / "test",
                "--url",
                server.url,
            ),
            *("--cells", out / "general", "--targets", out / "targets"),
            *("--classifier", out / "classifier", "--model-repository", repository),
            *("--json", out / "approaches.json", "--markdown", out / "approaches.md"),
            *("--repeats", "2"),
        )


@click.command(help=__doc__)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/demo"))
def main(out: Path) -> None:
    """Run all stages; the module's docstring is the help."""
    begin_afresh(out)
    start, stages = time.monotonic(), Stages("make demo", out)
    data, repository = out / "data", out / "model_repository"
    train(stages, out, data)
    export(stages, out, repository)
    serve_and_measure(stages, out, data, repository)
    click.secho(f"\nDone in {time.monotonic() - start:.0f} s. Look at:", bold=True)
    click.echo(
        f"  {out}/yolo_resnet/*_overlay.png   the cells, drawn on the frames\n"
        f"  {out}/yolo_resnet/*_labels.tif    label images\n"
        f"  {out}/approaches.md               the table above\n"
        f"Serve these models:  python -m server --model-repository {repository}"
    )


if __name__ == "__main__":
    main()
