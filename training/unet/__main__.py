"""Train the U-Nets of studies S2 and S3.

Study S2 segments glioma cells on whole frames. The network of the first command starts from
ImageNet's weights, that of the third from the whole model of the second:

\b
    python -m training.unet glioma --data data/c6 --out runs/c6 --encoder MiT-B3 \\
        --init imagenet --resolution 1472p --mode resize
    python -m training.unet glioma --preset pre-train --data data/livecell --out runs/livecell
    python -m training.unet glioma --data data/c6 --out runs/c6-livecell \\
        --init runs/livecell --resolution 1472p --mode resize

Study S3 segments tumour nuclei on the tiles that `training.nuclei_tiles` makes:

\b
    python -m training.unet nuclei --tiles runs/tiles/256-128 --out runs/nuclei --network U-Net

`--preset demo` takes minutes on two CPU cores. `--resume` continues an interrupted run, `--finish`
takes its best epoch so far. OUT is the checkpoint of the epoch with the best validation Dice;
OUT/log is for TensorBoard. Empty frames of noise are used in training and validation too, see
setting `blank_share`. The recipe records the probability threshold with the best Dice, and
OUT/threshold.png shows the curve.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from training.run.command_line import choose_settings, read_split, run_options, split_options
from training.run.folder import STATE_NAME, RunFolder
from training.unet.settings import (
    GLIOMA_PRESETS,
    NETWORKS,
    NUCLEI_NETWORKS,
    NUCLEI_PRESETS,
    PLAIN_UNET,
)

INIT_HELP = "`random`, `imagenet` (the encoder), or a checkpoint folder (the whole model)."
SEED_HELP = "Of the split, the weights, the windows and their changes."


@click.group(help=__doc__, context_settings={"show_default": True})
def main() -> None:
    """Train U-Nets. The module's docstring is the help text."""


@main.command()
@split_options
@click.option("--encoder", type=click.Choice(NETWORKS), help="By the study's name.")
@click.option(
    "--resolution", help="704p, 1472p, 2592p, native or <width>x<height>, of the network's input."
)
@click.option(
    "--mode",
    type=click.Choice(["resize", "crop"]),
    help="Whole frames scaled to the resolution, or windows of it at native scale.",
)
@run_options(GLIOMA_PRESETS, init=INIT_HELP, seed=SEED_HELP)
def glioma(
    data: tuple[str, ...],
    validation: tuple[str, ...],
    out: Path,
    init: str,
    preset: str,
    file: Path | None,
    seed: int,
    resume: bool,
    finish: bool,
    **overrides: Any,
) -> None:
    """Study S2: cells of phase-contrast frames; all annotated objects are one foreground."""
    settings = choose_settings(GLIOMA_PRESETS, preset, file, **overrides)
    folder = RunFolder(out, STATE_NAME, quiet=settings.is_secondary)
    with folder.reported():
        train, kept, hashes = read_split(
            data, validation, share=settings.validation_share, seed=seed
        )
        # Here, so that help and wrong options are answered before torch is imported.
        from training.unet.run import train_unet

        recipe = train_unet(
            train,
            kept,
            settings,
            out,
            init=init,
            seed=seed,
            resume=resume,
            finish=finish,
            data=hashes,
        )
    folder.report(recipe)


@main.command()
@click.option(
    "--tiles",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of tiles, made by `python -m training.nuclei_tiles`.",
)
@click.option(
    "--network",
    type=click.Choice(list(NUCLEI_NETWORKS)),
    default=PLAIN_UNET,
    help="By the study's name.",
)
@run_options(NUCLEI_PRESETS, init=INIT_HELP, seed=SEED_HELP)
def nuclei(
    tiles: Path,
    network: str,
    out: Path,
    init: str,
    preset: str,
    file: Path | None,
    seed: int,
    resume: bool,
    finish: bool,
    **overrides: Any,
) -> None:
    """Study S3: nuclei of H&E tiles, the cross-entropy weighted by the border map."""
    settings = choose_settings(
        NUCLEI_PRESETS, preset, file, encoder=NUCLEI_NETWORKS[network], **overrides
    )
    folder = RunFolder(out, STATE_NAME, quiet=settings.is_secondary)
    with folder.reported():
        # Here, so that help and wrong options are answered before torch is imported.
        from training.unet.run import train_nuclei

        recipe = train_nuclei(
            tiles, settings, out, init=init, seed=seed, resume=resume, finish=finish
        )
    folder.report(recipe)


if __name__ == "__main__":
    main()
