"""Repeats study S1 on rendered cells: training from nothing, export, server, both approaches.

\b
    make study

Every stage is a command that the README shows for a user's own images, and is printed when it runs.
All files are in `runs/study/`. The models are exported into a model repository there, so nothing
that is served elsewhere changes.
"""

from __future__ import annotations

import time
from pathlib import Path

import click

from server.embedded import EmbeddedServer
from training.run.stages import Stages, begin_afresh, precision_options

FRAMES = {"general": 40, "target": 16, "test": 8}
"""Number of rendered frames by use; the study had 600 general frames and 16 target frames."""

EMPTY = {"general": 8, "target": 4}
"""Number of further frames without a cell, so that the networks learn what is no cell."""

DEBRIS = "20"
"""Specks in frames without a cell: five times the default, as clumps of specks look like cells."""

SIZE = ("--width", "640", "--height", "480")


def render(stages: Stages, data: Path) -> dict[str, list[Path]]:
    """Render the data and return the folders of each use, frames with cells first."""
    folders: dict[str, list[Path]] = {}
    for seed, (use, count) in enumerate(FRAMES.items(), start=1):
        folders[use] = [data / use]
        stages.run(
            f"Rendering {count} {use} frames",
            *("python", "-m", "training.rendered", data / use, "--frames", f"{count}"),
            *("--seed", f"{seed}", *SIZE),
        )
    for seed, (use, count) in enumerate(EMPTY.items(), start=11):
        folders[use].append(data / f"{use}-empty")
        stages.run(
            f"Rendering {count} {use} frames without cells",
            *("python", "-m", "training.rendered", folders[use][-1], "--frames", f"{count}"),
            *("--seed", f"{seed}", *SIZE, "--cells", "0", "--prefix", "empty"),
            *("--debris", DEBRIS),
        )
    return folders


def train(stages: Stages, out: Path, folders: dict[str, list[Path]]) -> None:
    """Train the three networks, each into its own folder in ``out``."""
    fast = precision_options()
    stages.run(
        "Training YOLO11n-seg on the general frames, one class",
        *("python", "-m", "training.yolo", "general", "--preset", "demo", *fast),
        *_data(folders["general"]),
        *("--out", out / "general"),
    )
    stages.run(
        "Approach 1: fine-tuning it to the two target classes",
        *("python", "-m", "training.yolo", "fine-tune", "--preset", "demo", *fast),
        *_data(folders["target"]),
        *("--init", out / "general", "--out", out / "targets"),
    )
    stages.run(
        "Approach 2: cutting the target frames into crops",
        *("python", "-m", "training.crops", *_data(folders["target"][:1]), "--out", out / "crops"),
    )
    stages.run(
        "Approach 2: training ResNet50 on the crops",
        *("python", "-m", "training.resnet", "--preset", "demo", *fast),
        *("--crops", out / "crops", "--out", out / "classifier"),
    )


def _data(folders: list[Path]) -> list[str | Path]:
    return [word for folder in folders for word in ("--data", folder)]


def export(stages: Stages, out: Path, repository: Path) -> None:
    """Export both pipelines into a fresh model repository."""
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
    """Start Triton, segment the unseen frames with the CLI, and print the study's table.

    Besides the study's figures, the table has recall, precision, F1, AP50 and panoptic quality.
    """
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
            *("--repeats", "1"),
        )


@click.command(help=__doc__)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/study"))
def main(out: Path) -> None:
    """Run all stages; the module's docstring is the help."""
    begin_afresh(out)
    start, stages = time.monotonic(), Stages("make study", out)
    data, repository = out / "data", out / "model_repository"
    train(stages, out, render(stages, data))
    export(stages, out, repository)
    serve_and_measure(stages, out, data, repository)
    click.secho(f"\nDone in {time.monotonic() - start:.0f} s. Look at:", bold=True)
    click.echo(
        f"  {out}/yolo_resnet/*_overlay.png   the cells, drawn on the frames\n"
        f"  {out}/yolo_resnet/*_labels.tif    label images\n"
        f"  {out}/approaches.md               the table above\n"
        f"Serve these models:  python -m server --model-repository {repository}\n"
        "Then see how size and scale of a frame matter:  "
        f"python -m benchmarks.fields --quick --json {out}/fields.json"
    )


if __name__ == "__main__":
    main()
