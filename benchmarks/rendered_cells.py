"""Frames of no cell, one, 300 and 2,000: from random weights to right answers through the server.

\b
    python -m benchmarks.rendered_cells

Frames of 2048 x 2048 pixels are rendered for training, with 2,000, 300, 30, 3 and no cells each,
other ones than those that are measured. YOLO11n-seg learns to find the cells, and to leave the
debris of empty fields alone; ResNet50 to tell the two classes apart. `yolo_resnet` is exported, and
`python -m benchmarks.cells` measures it with the threshold that training chose. The settings are in
`benchmarks/rendered-cells/`. A quarter of an hour on two cores that multiply in bfloat16. The
table, the commands and their times are written to `benchmarks/results/rendered-cells.md`, the
figures to `rendered-cells.json` beside it.
"""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks.repository import copy_repository
from benchmarks.stages import Stages, begin_afresh, precision_options

SETTINGS = Path("benchmarks/rendered-cells")
RESULTS = Path("benchmarks/results/rendered-cells.json")
SIDE = 2048
FRAMES = {2000: 10, 300: 8, 30: 4, 0: 6, 3: 24}
"""Frames for training, by their cells."""

MEASURED_FRAMES = 8
"""Of every count of cells: one frame says little of a single cell."""

FIRST_SEED = 101
"""Far from the seeds of the frames that are measured."""


def render(stages: Stages, out: Path) -> dict[int, Path]:
    """The training data: a folder for every number of cells."""
    folders: dict[int, Path] = {}
    for seed, (cells, frames) in enumerate(FRAMES.items(), FIRST_SEED):
        folders[cells] = out / f"cells-{cells}"
        stages.run(
            f"Rendering {frames} frames of {cells} cells",
            *("python", "-m", "training.rendered", folders[cells], "--prefix", f"c{cells}"),
            *("--cells", f"{cells}", "--frames", f"{frames}", "--seed", f"{seed}"),
            *("--width", f"{SIDE}", "--height", f"{SIDE}"),
        )
    return folders


def train(stages: Stages, folders: dict[int, Path], out: Path) -> None:
    """The network that finds cells, and the classifier."""
    fast = precision_options()
    stages.run(
        "Training YOLO11n-seg on cells, one class",
        *("python", "-m", "training.yolo", "general", "--preset", "demo", *fast),
        *_options("--data", [folders[cells] for cells in sorted(folders, reverse=True)]),
        *("--settings", SETTINGS / "general.yaml", "--out", out / "cells"),
    )
    crops = [folders[cells] for cells in (300, 30)]
    stages.run(
        "Cutting crops",
        *("python", "-m", "training.crops", "--out", out / "crops"),
        *_options("--data", crops),
    )
    stages.run(
        "Training ResNet50",
        *("python", "-m", "training.resnet", "--preset", "demo", *fast),
        *("--crops", out / "crops", "--settings", SETTINGS / "classifier.yaml"),
        *("--out", out / "classifier"),
    )


def _options(name: str, values: list[Path]) -> list[str]:
    return [word for value in values for word in (name, str(value))]


def export_and_measure(stages: Stages, folders: dict[int, Path], out: Path) -> None:
    """`yolo_resnet` into a repository of this run, and its figures."""
    repository = out / "model_repository"
    copy_repository(repository)
    few = folders[30] / "images"
    stages.run(
        "Exporting `yolo_resnet`",
        *("python", "-m", "export", "yolo_resnet", "--cells", out / "cells"),
        *("--classifier", out / "classifier", "--frames", few),
        *("--model-repository", repository),
    )
    stages.run(
        "Measuring",
        *("python", "-m", "benchmarks.cells", "--pipeline", "yolo_resnet", "--side", f"{SIDE}"),
        *("--frames", f"{MEASURED_FRAMES}", "--repeats", "1"),
        *("--model-repository", repository, "--json", RESULTS),
        *("--markdown", out / "cells.md"),
    )


@click.command(help=__doc__, context_settings={"show_default": True})
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/rendered-cells"))
@click.option("--resume", is_flag=True, help="Keep the stages that an earlier run has done.")
def main(out: Path, resume: bool) -> None:
    """Run all stages; the module's docstring is the help."""
    if not resume:
        begin_afresh(out)
    stages = Stages("python -m benchmarks.rendered_cells --resume", out)
    folders = render(stages, out)
    train(stages, folders, out)
    export_and_measure(stages, folders, out)
    page, tables = RESULTS.with_suffix(".md"), (out / "cells.md").read_text()
    page.write_text(f"# From no cell to thousands\n\n{tables}\n{stages.table()}")
    click.echo(f"\nWritten: {page} and {RESULTS}")


if __name__ == "__main__":
    main()
