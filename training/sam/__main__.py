"""Train SAM on annotated cells: adapt a published model, or train `tiny` from random weights.

\b
    python -m training.sam --data runs/data/msc --out runs/sam --size vit_b \\
        --init sam_vit_b_01ec64.pth
    python -m training.sam --preset demo --data runs/data/t98g --out runs/sam-tiny

Cells are prompted by their boxes, which are moved at random as a detector might. Some steps also
use points and coarse masks. The first command trains the mask decoder alone: the encoder's
embeddings are computed once and cached in OUT/embeddings, which may be deleted. Published files are
at https://github.com/facebookresearch/segment-anything; --init also accepts the folder of another
run. An encoder that starts from random weights can first learn from every pixel, without prompts
(setting `dense_epochs`), and from random views of few frames (setting `views`).

`--resume` continues an interrupted run, `--finish` takes its best epoch so far. OUT is the
checkpoint of the epoch with the best mean IoU of the validation cells, prompted by their true
boxes; OUT/log is for TensorBoard.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from training.run.command_line import choose_settings, read_split, run_options, split_options
from training.run.folder import STATE_NAME, RunFolder
from training.sam.settings import PRESETS, SIZES


@click.command(help=__doc__, context_settings={"show_default": True})
@split_options
@click.option("--size", type=click.Choice(SIZES), help="Of SAM's image encoder.")
@click.option("--train-encoder/--freeze-encoder", default=None, help="Train the image encoder too.")
@run_options(
    PRESETS,
    init="`random`, a published .pth file, or a checkpoint folder.",
    seed="Of the split, the weights, the cells and their prompts.",
)
def main(
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
    """Train SAM. The module's docstring is the help text."""
    settings = choose_settings(PRESETS, preset, file, **overrides)
    folder = RunFolder(out, STATE_NAME, quiet=settings.is_secondary)
    with folder.reported():
        # Here, so that help and wrong options are answered before torch is imported.
        from training.sam.run import train_sam, with_cells

        train, kept, hashes = read_split(
            data,
            validation,
            share=settings.validation_share,
            seed=seed,
            select=lambda dataset: with_cells(dataset, "of the data set"),
        )
        recipe = train_sam(
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
