"""Train YOLO11n-seg by the protocol of study S1.

The protocol is 200 epochs on general cells of one class, then 20 epochs on the target data with its
K classes:

\b
    python -m training.yolo general --data data/general --out runs/general
    python -m training.yolo fine-tune --data data/target --init runs/general --out runs/targets

Without `--init`, `fine-tune` starts from the general network that the project ships, see
training/general/README.md. `--init coco` starts from ultralytics' published COCO weights, if they
can be fetched. `--preset demo` is the same with a smaller network input and few epochs: it takes
minutes on two CPU cores. `--resume` continues an interrupted run, `--finish` takes its best epoch
so far. Losses and validation metrics of every epoch are in OUT/log for TensorBoard; OUT itself is
the checkpoint.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from training.checkpoint import RANDOM
from training.run.command_line import (
    choose_settings,
    data_option,
    pixel_size_option,
    run_options,
)
from training.run.folder import RunFolder
from training.yolo.settings import GENERAL, PRESETS, STATE_NAME


@click.command(help=__doc__, context_settings={"show_default": True})
@click.argument("protocol", type=click.Choice(["general", "fine-tune"]))
@data_option
@pixel_size_option
@click.option("--window", type=int, help="Side of a training window in network pixels.")
@run_options(
    ("study", "demo"),
    init="`general` (the shipped network), `random`, `coco`, or a checkpoint folder.  [default: "
    "general for fine-tune, random for general]",
    init_default=None,
    parallel=False,
    seed="Of weights, split, windows and augmentation.",
)
def main(
    protocol: str,
    data: tuple[str, ...],
    pixel_sizes: tuple[float, ...],
    out: Path,
    init: str | None,
    preset: str,
    file: Path | None,
    seed: int,
    resume: bool,
    finish: bool,
    **overrides: Any,
) -> None:
    """Train YOLO11n-seg. The module's docstring is the help text."""
    name = protocol if preset == "study" else f"{protocol}-demo"
    settings = choose_settings(PRESETS, name, file, **overrides)
    folder = RunFolder(out, STATE_NAME)
    with folder.reported():
        # Here, so that help and wrong options are answered before torch is imported.
        from training.yolo.run import train_yolo

        recipe = train_yolo(
            data,
            out,
            settings,
            one_class=protocol == "general",
            init=init or (GENERAL if protocol == "fine-tune" else RANDOM),
            seed=seed,
            resume=resume,
            finish=finish,
            pixel_sizes=pixel_sizes,
        )
    folder.report(recipe)


if __name__ == "__main__":
    main()
