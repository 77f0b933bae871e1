"""Repeats study S1 on real images, from random weights: blood cells of two classes.

\b
    python -m benchmarks.bccd --bccd data/bccd --dsb2018 data/dsb2018

The general cells are dsb2018's nuclei and 30 fields of bccd, as one class. The target cells are 16
other fields of bccd with two classes. The test uses the remaining 14. The lists of fields and the
settings are in `benchmarks/bccd/`. Everything from training to the table is done with the README's
commands. It takes ten minutes on two cores that multiply bfloat16 natively, and most of an hour on
others. The table, the commands and their times are written to `benchmarks/results/bccd.md`, the
figures to `bccd.json` beside it.

BCCD's annotations are boxes. Its masks are the ellipses inscribed in them, so the IoU here is not
that of hand-drawn outlines, as the study's is. DIR of bccd is a COCO data set of BCCD_Dataset
(MIT), that of dsb2018 label images of the Data Science Bowl 2018 (CC0).
"""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks.harness.results import times_table
from cytoserve.contract import SINGLE_GRAPH
from training.run.stages import Stages, begin_afresh, precision_options, resume_command

LISTS = Path("benchmarks/bccd")
RESULTS = Path("benchmarks/results")
CAVEAT = (
    "BCCD's annotations are boxes: its masks are the ellipses inscribed in them, so the IoU here "
    "is not that of hand-drawn outlines, as the study's is. Accuracies are over matched cells."
)

REPEATS = "15"
"""Timed rounds per frame. With 5, a frame's own overhead lay anywhere from 0.8 to 1.5."""


def train(stages: Stages, bccd: Path, dsb2018: Path, out: Path) -> None:
    """Train the two YOLO networks and the classifier."""
    fast = precision_options()
    stages.run(
        "Training YOLO11n-seg on general cells, one class",
        *("python", "-m", "training.yolo", "general", *fast),
        *("--data", dsb2018, "--data", f"{bccd}@{LISTS}/general.txt"),
        *("--settings", LISTS / "general.yaml", "--out", out / "general"),
    )
    target = f"{bccd}@{LISTS}/target.txt"
    stages.run(
        "Approach 1: fine-tuning it to two classes",
        *("python", "-m", "training.yolo", "fine-tune", *fast, "--data", target),
        *("--settings", LISTS / "fine-tune.yaml"),
        *("--init", out / "general", "--out", out / "targets"),
    )
    stages.run(
        "Approach 2: cutting crops",
        *("python", "-m", "training.crops", "--data", target),
        *("--out", out / "crops"),
    )
    stages.run(
        "Approach 2: training ResNet50",
        *("python", "-m", "training.resnet", *fast),
        *("--crops", out / "crops"),
        *("--settings", LISTS / "classifier.yaml", "--out", out / "classifier"),
    )


def export_and_measure(stages: Stages, bccd: Path, out: Path) -> None:
    """Export both pipelines into a repository of this run, and measure the study's table."""
    repository = out / "model_repository"
    common = ("--model-repository", repository)
    stages.run(
        "Exporting `yolo`",
        *("python", "-m", "export", "yolo", "--targets", out / "targets", *common),
    )
    stages.run(
        "Exporting `yolo_resnet`",
        *("python", "-m", "export", "yolo_resnet", "--cells", out / "general"),
        *("--classifier", out / "classifier", *common),
    )
    stages.run(
        "Measuring both approaches on the test fields",
        *("python", "-m", "benchmarks.approaches", "--data", f"{bccd}@{LISTS}/test.txt"),
        *("--cells", out / "general", "--targets", out / "targets"),
        *("--classifier", out / "classifier", "--repeats", REPEATS, *common),
        *(
            "--variant",
            SINGLE_GRAPH,
            "--json",
            RESULTS / "bccd.json",
            "--markdown",
            out / "approaches.md",
        ),
    )


@click.command(help=__doc__, context_settings={"show_default": True})
@click.option("--bccd", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--dsb2018", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/bccd"))
@click.option("--resume", is_flag=True, help="Continue an interrupted run.")
def main(bccd: Path, dsb2018: Path, out: Path, resume: bool) -> None:
    """Run all stages; the module's docstring is the help."""
    if not resume:
        begin_afresh(out)
    stages = Stages(resume_command("benchmarks.bccd"), out)
    train(stages, bccd, dsb2018, out)
    export_and_measure(stages, bccd, out)
    page = RESULTS / "bccd.md"
    table = (out / "approaches.md").read_text()
    page.write_text(f"# Study S1 on blood cells\n\n{CAVEAT}\n\n{table}\n{times_table(stages)}")
    click.echo(f"\nWritten: {page} and {page.with_suffix('.json')}")


if __name__ == "__main__":
    main()
