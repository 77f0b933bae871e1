"""Repeats study S4 on real images, from random weights: dense, touching glioblastoma cells.

\b
    python -m benchmarks.t98g_instances --data data/t98g

Mask R-CNN and SAM of size `tiny` are trained on 10 fields, with 3 more to choose the epoch. They
are exported as `maskrcnn`, `maskrcnn_sam` and `sam_prompt`, and tested through the server on 5
other fields. The lists of fields are in `benchmarks/t98g/`, the settings in
`benchmarks/t98g_instances/`. Everything is done with the README's commands. The tables, the
commands and their times are written to `benchmarks/results/t98g-instances.md`, the figures to
`t98g-instances.json` beside it.

DIR is a data set of label images: 16-bit phase-contrast fields of T98G cells, published with
Usiigaci (MIT). `--resume` continues an interrupted run.
"""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks.harness.results import times_table
from training.run.folder import STATE_NAME, RunFolder
from training.run.stages import Stages, begin_afresh, precision_options, resume_command

FIELDS = Path("benchmarks/t98g")
SETTINGS = Path("benchmarks/t98g_instances")
RESULTS = Path("benchmarks/results")
NETWORKS = {"maskrcnn": "Mask R-CNN", "sam": "SAM"}
"""Name of checkpoint folder, training module and settings file -> name of the network."""


def train(stages: Stages, data: Path, fields: Path, settings: Path, out: Path) -> None:
    """Train both networks on the same fields."""
    for network, name in NETWORKS.items():
        stages.run(
            f"Training {name}",
            *("python", "-m", f"training.{network}", "--preset", "demo", *precision_options()),
            *("--data", f"{data}@{fields}/train.txt"),
            *("--validation", f"{data}@{fields}/validation.txt"),
            *("--settings", settings / f"{network}.yaml", "--out", out / network),
            resume=RunFolder(out / network, STATE_NAME).state.is_file(),
        )


def export(stages: Stages, data: Path, out: Path) -> None:
    """Export the three pipelines into a repository of this run."""
    common = ("--model-repository", out / "model_repository", "--frames", data / "images")
    maskrcnn, sam = out / "maskrcnn", out / "sam"
    for pipeline, checkpoints in {
        "maskrcnn": ("--checkpoint", maskrcnn),
        "maskrcnn_sam": ("--maskrcnn", maskrcnn, "--sam", sam),
        "sam_prompt": ("--sam", sam),
    }.items():
        stages.run(
            f"Exporting `{pipeline}`", *("python", "-m", "export", pipeline, *checkpoints, *common)
        )


def measure(stages: Stages, data: Path, fields: Path, out: Path, page: Path) -> None:
    """Measure the study's table and speed through the server."""
    stages.run(
        "Measuring on the test fields, through the server",
        *("python", "-m", "benchmarks.instances", "--data", f"{data}@{fields}/test.txt"),
        *("--maskrcnn", out / "maskrcnn", "--sam", out / "sam"),
        *("--model-repository", out / "model_repository"),
        *("--json", page.with_suffix(".json"), "--markdown", out / "instances.md"),
    )


@click.command(help=__doc__, context_settings={"show_default": True})
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True)
@click.option(
    "--fields",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=FIELDS,
    help="Folder of train.txt, validation.txt and test.txt.",
)
@click.option(
    "--settings",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=SETTINGS,
    help="Folder of maskrcnn.yaml and sam.yaml.",
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/t98g-instances"))
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS)
@click.option(
    "--resume",
    is_flag=True,
    help="Keep what an earlier run in OUT, with the same settings, has finished.",
)
def main(data: Path, fields: Path, settings: Path, out: Path, results: Path, resume: bool) -> None:
    """Run all stages; the module's docstring is the help."""
    if not resume:
        begin_afresh(out)
    stages = Stages(resume_command("benchmarks.t98g_instances"), out)
    page = results / "t98g-instances.md"
    train(stages, data, fields, settings, out)
    export(stages, data, out)
    measure(stages, data, fields, out, page)
    tables = (out / "instances.md").read_text()
    page.write_text("\n".join(["# Study S4 on T98G cells\n", tables, times_table(stages)]))
    click.echo(f"\nWritten: {page} and {page.with_suffix('.json')}")


if __name__ == "__main__":
    main()
