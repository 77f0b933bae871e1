"""Repeats study S2 on real images, from random weights: glioblastoma cells in phase contrast.

\b
    python -m benchmarks.t98g --t98g data/t98g

A small U-Net is trained on 10 fields of human cells, with 3 more to choose the epoch. It is
exported as `glioma_unet` and tested through the server on 5 other fields. One test resizes every
frame to the size of the network's training. The other keeps frames as they are. It shows the loss
at another scale, and the time of a network at full resolution.

The fields were drawn at random. Lists and settings are in `benchmarks/t98g/`. Everything is done
with the README's commands. The tables, the commands and their times are written to
`benchmarks/results/t98g-unet.md`, the figures to `t98g-unet.json` and `t98g-unet-as-is.json` beside
it.

DIR is a data set of label images: 16-bit phase-contrast fields of T98G cells, published with
Usiigaci (MIT). `--resume` continues an interrupted run.
"""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks.harness.results import times_table
from training.checkpoint import load_checkpoint
from training.run.folder import STATE_NAME, RunFolder
from training.run.stages import Stages, begin_afresh, precision_options, resume_command
from training.unet.network import ARCHITECTURE

LISTS = Path("benchmarks/t98g")
RESULTS = Path("benchmarks/results")


def train(stages: Stages, t98g: Path, lists: Path, out: Path) -> None:
    """Train the U-Net."""
    stages.run(
        "Training the U-Net",
        *("python", "-m", "training.unet", "glioma", *precision_options()),
        *("--data", f"{t98g}@{lists}/train.txt", "--validation", f"{t98g}@{lists}/validation.txt"),
        *("--settings", lists / "settings.yaml", "--out", out / "unet"),
        resume=RunFolder(out / "unet", STATE_NAME).state.is_file(),
    )


def export_and_measure(
    stages: Stages, t98g: Path, lists: Path, out: Path, json_file: Path, resize_to: str | None
) -> str:
    """Export into a separate repository; return quality and speed as Markdown."""
    size_text = "as they are" if resize_to is None else f"at {resize_to}"
    folder = out / json_file.stem
    common = ("--checkpoint", out / "unet", "--model-repository", folder / "model_repository")
    size = () if resize_to is None else ("--resize-to", resize_to)
    stages.run(
        f"Exporting `glioma_unet`, frames {size_text}",
        *("python", "-m", "export", "glioma_unet", *common, *size, "--frames", t98g / "images"),
    )
    stages.run(
        f"Measuring on the test fields, through the server, frames {size_text}",
        *("python", "-m", "benchmarks.glioma.served", "--data", f"{t98g}@{lists}/test.txt"),
        *(*common, "--json", json_file, "--markdown", folder / "served.md"),
    )
    return f"## Frames {size_text}\n\n{(folder / 'served.md').read_text()}"


@click.command(help=__doc__, context_settings={"show_default": True})
@click.option("--t98g", type=click.Path(path_type=Path, exists=True), required=True)
@click.option(
    "--lists",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=LISTS,
    help="Folder of train.txt, validation.txt, test.txt and settings.yaml.",
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/t98g"))
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS)
@click.option(
    "--resume",
    is_flag=True,
    help="Keep what an earlier run in OUT, with the same settings, has finished.",
)
def main(t98g: Path, lists: Path, out: Path, results: Path, resume: bool) -> None:
    """Run all stages; the module's docstring is the help."""
    if not resume:
        begin_afresh(out)
    stages = Stages(resume_command("benchmarks.t98g"), out)
    page = results / "t98g-unet.md"
    train(stages, t98g, lists, out)
    trained = load_checkpoint(out / "unet", ARCHITECTURE)[1].settings["resolution"]
    parts = [
        export_and_measure(stages, t98g, lists, out, results / f"{page.stem}{name}.json", size)
        for name, size in (("", trained), ("-as-is", None))
    ]
    page.write_text("\n".join(["# Study S2 on T98G cells\n", *parts, times_table(stages)]))
    click.echo(f"\nWritten: {page} and the figures beside it")


if __name__ == "__main__":
    main()
