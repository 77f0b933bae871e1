"""Train the Mask R-CNN of study S4: every cell of a frame with its mask.

The first command trains on mesenchymal stem cells, from torchvision's COCO weights. The second
trains on a further data set, from the network that the first one made:

\b
    python -m training.maskrcnn --data runs/data/rat-msc --out runs/rat-msc --init coco
    python -m training.maskrcnn --data runs/data/human-msc --out runs/human-msc --init runs/rat-msc

`--preset demo` trains a narrower network from random weights on two CPU cores. `--resume` continues
an interrupted run, `--finish` takes its best epoch so far. OUT is the checkpoint of the epoch with
the lowest validation loss; OUT/log is for TensorBoard.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from training.maskrcnn.settings import PRESETS
from training.run.command_line import (
    choose_settings,
    pixel_size_option,
    read_split,
    run_options,
    split_options,
)
from training.run.folder import STATE_NAME, RunFolder


@click.command(help=__doc__, context_settings={"show_default": True})
@split_options
@pixel_size_option
@click.option("--one-class", is_flag=True, help='Call every cell "cell", whatever its class.')
@run_options(
    PRESETS,
    init="`random`, `coco`, or a checkpoint folder.",
    seed="Of the split, the weights, the windows and their changes.",
)
def main(
    data: tuple[str, ...],
    validation: tuple[str, ...],
    pixel_sizes: tuple[float, ...],
    one_class: bool,
    out: Path,
    init: str,
    preset: str,
    file: Path | None,
    seed: int,
    resume: bool,
    finish: bool,
    **overrides: Any,
) -> None:
    """Train a Mask R-CNN. The module's docstring is the help text."""
    settings = choose_settings(PRESETS, preset, file, **overrides)
    folder = RunFolder(out, STATE_NAME, quiet=settings.is_secondary)
    with folder.reported():
        train, kept, hashes = read_split(
            data,
            validation,
            share=settings.validation_share,
            seed=seed,
            one_class=one_class,
            pixel_sizes=pixel_sizes,
        )
        # Here, so that help and wrong options are answered before torch is imported.
        from training.maskrcnn.run import train_maskrcnn

        recipe = train_maskrcnn(
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


if __name__ == "__main__":
    main()
