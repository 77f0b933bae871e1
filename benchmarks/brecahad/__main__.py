"""Repeats study S3 on real images, from random weights: nuclei in stained tissue.

\b
    python -m benchmarks.brecahad --brecahad data/BreCaHAD

The study's nine sets of tiles are cut, with one case held out, and the plain U-Net is trained and
tested on each. The study's two networks are then trained longer on 256/128 and 256/128 zero, with
less balancing of classes. They are exported as `nuclei_unet` and tested through the server on whole
frames of the held-out case.

Settings are in `benchmarks/brecahad/`. Everything is done with the README's commands. The tables,
the commands and their times are written to `benchmarks/results/brecahad.md`, the figures to
`brecahad.json` (U-Net), `brecahad-resnet50.json` and `brecahad-sets.json` beside it.

`--resume` continues an interrupted run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from benchmarks.harness.results import times_table
from benchmarks.nuclei.result import study_text
from benchmarks.published import S3, S3_ENDINGS, S3_NETWORKS
from training.nuclei_tiles import set_folder
from training.run.folder import STATE_NAME, RunFolder
from training.run.stages import Stages, begin_afresh, precision_options, resume_command

SETTINGS = Path("benchmarks/brecahad")
RESULTS = Path("benchmarks/results")
SERVED_SETS = dict(zip(S3_NETWORKS, ("256/128", "256/128 zero"), strict=True))
"""Network -> the set that its served weights are trained on. Both sets have the pipeline's tiles.
U-Net_ResNet50, whose passes take longest, leaves out empty ones, as in the study's best result."""


def train(
    stages: Stages,
    brecahad: Path,
    settings: Path,
    out: Path,
    page: Path,
    *,
    case: str,
    networks: Sequence[str],
) -> None:
    """Train the networks on all sets; the protocol itself continues where it was interrupted."""
    files = {name: settings / f"{set_folder(Path(), name)}.yaml" for name in S3}
    stages.run(
        "Training on the sets of tiles",
        *("python", "-m", "benchmarks.nuclei.protocol", *precision_options()),
        *("--data", brecahad, "--test-case", case, "--settings", settings / "settings.yaml"),
        *(
            word
            for name, file in files.items()
            if file.is_file()
            for word in ("--set-settings", f"{name}={file}")
        ),
        *(word for name in networks for word in ("--network", name)),
        *("--out", out, "--json", page.with_name(f"{page.stem}-sets.json")),
        *("--markdown", out / "sets.md"),
    )


def serve_and_measure(
    stages: Stages,
    brecahad: Path,
    settings: Path,
    out: Path,
    page: Path,
    *,
    case: str,
    network: str,
) -> str:
    """Serve a network from a repository of its own; return quality, seams and speed as Markdown."""
    end, set_name = S3_ENDINGS[network], SERVED_SETS[network]
    repository, checkpoint = out / f"model_repository{end}", out / f"served{end}"
    table = out / f"served{end}.md"
    stages.run(
        f"Training the {network} that is served",
        *("python", "-m", "training.unet", "nuclei", *precision_options()),
        *("--tiles", set_folder(out / "tiles", set_name), "--network", network),
        *("--settings", settings / f"served{end}.yaml", "--out", checkpoint),
        resume=RunFolder(checkpoint, STATE_NAME).state.is_file(),
    )
    common = ("--checkpoint", checkpoint, "--model-repository", repository)
    stages.run(
        "Exporting it as `nuclei_unet`",
        *("python", "-m", "export", "nuclei_unet", *common, "--frames", brecahad / "images"),
    )
    stages.run(
        "Measuring it on the case kept back, through the server",
        *("python", "-m", "benchmarks.nuclei.served", "--data", brecahad),
        *("--test-case", case, *common),
        *("--json", page.with_name(f"{page.stem}{end}.json"), "--markdown", table),
    )
    return (
        f"## {network}, trained on {set_name}, through the server: whole frames of {case}\n\n"
        f"The study's Dice / IoU of {network} on original images: "
        f"{study_text('original', network)}.\n\n{table.read_text()}"
    )


@click.command(help=__doc__, context_settings={"show_default": True})
@click.option("--brecahad", type=click.Path(path_type=Path, exists=True), required=True)
@click.option(
    "--test-case", "case", default="Case_12", help="The case kept back: one drawn at random."
)
@click.option(
    "--network",
    "networks",
    type=click.Choice(S3_NETWORKS),
    multiple=True,
    default=[S3_NETWORKS[0]],
    help="Network to train on every set.",
)
@click.option(
    "--served",
    type=click.Choice(S3_NETWORKS),
    multiple=True,
    default=S3_NETWORKS,
    help="Network to serve.",
)
@click.option(
    "--settings",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=SETTINGS,
    help="Folder of settings.yaml, served.yaml and, for single sets, files such as original.yaml.",
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/brecahad"))
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS)
@click.option(
    "--resume",
    is_flag=True,
    help="Keep what an earlier run in OUT, with the same settings, has finished.",
)
def main(
    brecahad: Path,
    case: str,
    networks: tuple[str, ...],
    served: tuple[str, ...],
    settings: Path,
    out: Path,
    results: Path,
    resume: bool,
) -> None:
    """Run all stages; the module's docstring is the help."""
    if not resume:
        begin_afresh(out)
    stages = Stages(resume_command("benchmarks.brecahad"), out)
    page = results / "brecahad.md"
    train(stages, brecahad, settings, out, page, case=case, networks=networks)
    parts = [
        serve_and_measure(stages, brecahad, settings, out, page, case=case, network=network)
        for network in served
    ]
    sets = f"# Study S3 on BreCaHAD\n\n## The sets of tiles\n\n{(out / 'sets.md').read_text()}"
    page.write_text("\n".join([sets, *parts, times_table(stages)]))
    click.echo(f"\nWritten: {page} and the figures beside it")


if __name__ == "__main__":
    main()
