"""Train ResNet50 to classify cells, by the protocol of study S1: 150 epochs on crops.

\b
    python -m training.crops  --data data/target --out runs/crops
    python -m training.resnet --crops runs/crops --out runs/classifier

`--init imagenet` starts from torchvision's ImageNet weights, if they can be fetched. `--preset
demo` is the same in fewer epochs. All classes are sampled equally often, however rare they are.
`--resume` continues an interrupted run, `--finish` takes its best epoch so far. OUT is the
checkpoint; OUT/log is for TensorBoard.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from training.resnet.settings import PRESETS
from training.run.command_line import choose_settings, run_options
from training.run.folder import STATE_NAME, RunFolder


@click.command(help=__doc__, context_settings={"show_default": True})
@click.option("--crops", type=click.Path(path_type=Path), required=True, help="Folder of crops.")
@run_options(
    sorted(PRESETS),
    init="`random`, `imagenet`, or a checkpoint folder.",
    seed="Of weights, sampling and augmentation.",
)
def main(
    crops: Path,
    out: Path,
    init: str,
    preset: str,
    file: Path | None,
    seed: int,
    resume: bool,
    finish: bool,
    **overrides: Any,
) -> None:
    """Train ResNet50. The module's docstring is the help text."""
    settings = choose_settings(PRESETS, preset, file, **overrides)
    folder = RunFolder(out, STATE_NAME, quiet=settings.is_secondary)
    with folder.reported():
        # Here, so that help and wrong options are answered before torch is imported.
        from training.resnet.trainer import train_resnet

        recipe = train_resnet(
            crops, out, settings, init=init, seed=seed, resume=resume, finish=finish
        )
    folder.report(recipe)


if __name__ == "__main__":
    main()
