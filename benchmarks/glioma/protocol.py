"""Runs study S2's protocol: trains and tests U-Nets on K random splits, for tables like its own.

\b
    python -m benchmarks.glioma.protocol --data data/glioma_c6 --table 1 --table 2 \\
        --pretrained livecell=runs/livecell-mit-b3 --pretrained livecell=runs/livecell-vgg19 \\
        --out runs/glioma-protocol

`--table N` takes the rows of the study's table N and prints its figures beside ours. A table of
your own has all combinations of `--encoder`, `--init`, `--mode` and `--resolution`. Every training
leaves an ordinary checkpoint below OUT.

The same command continues an interrupted run: OUT holds finished trainings and tests. For a trial
on small images, add `--scale 0.25 --splits 2 --sizes 3/1/2 --epochs 1`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from benchmarks.glioma.result import (
    Average,
    GliomaProtocolResult,
    ModelRow,
    ScoresTable,
    protocol_page,
)
from benchmarks.glioma.runs import AUGMENTATIONS, OWN, Protocol, Run, average, run_scores
from benchmarks.harness.results import KeptResults, made_by, write_result
from benchmarks.published import S2_TABLES, GliomaModel, GliomaTable, TestSizes
from training.checkpoint import RANDOM, explain, load_checkpoint
from training.datasets.splits import SplitSizes
from training.run.command_line import SETTINGS_HELP, choose_settings, data_option, read_data
from training.unet.network import ARCHITECTURE
from training.unet.settings import GLIOMA_PRESETS, NATIVE, NETWORKS, parse_resolution

STUDY_SPLITS = 10
"""The study's number K of random splits."""


def read_tests(texts: Sequence[str]) -> tuple[TestSizes, ...]:
    """Read tests from the command line, ``R1,R2`` each.

    Raises:
        click.UsageError: a text does not have that form, or names no resolution.
    """
    tests = []
    for text in texts:
        r1, comma, r2 = text.partition(",")
        try:
            if not comma:
                raise ValueError("a test is R1,R2: predicted at R1, compared at R2")
            for name in (r1, r2) if r1 != OWN else (r2,):
                parse_resolution(name)
        except ValueError as error:
            raise click.UsageError(f"--test {text}: {error}") from error
        tests.append((r1, r2))
    return tuple(tests)


def read_sizes(text: str) -> SplitSizes:
    """Read the sizes of a split from the command line, ``15/5/10``.

    Raises:
        click.UsageError: the text does not have that form, or a part is empty.
    """
    if not re.fullmatch(r"\d+/\d+/\d+", text):
        raise click.UsageError(
            f"--sizes takes training/validation/test, for example 15/5/10; got {text}."
        )
    try:
        return SplitSizes(*map(int, text.split("/")))
    except ValueError as error:
        raise click.UsageError(f"--sizes {text}: {error}") from error


def read_pretrained(texts: Sequence[str]) -> dict[tuple[str, str], Path]:
    """Read the folders of pre-trained models: (name of the pre-training, encoder) -> folder.

    Raises:
        click.UsageError: an argument is not ``NAME=DIR``, or two mean the same model.
        CheckpointError: a folder holds no checkpoint of a U-Net.
    """
    folders: dict[tuple[str, str], Path] = {}
    for text in texts:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder):
            raise click.UsageError(f"--pretrained takes NAME=DIR; got {text}.")
        encoder = load_checkpoint(Path(folder), ARCHITECTURE)[1].settings["encoder"]
        if (name, encoder) in folders:
            raise click.UsageError(
                f"--pretrained {name} is given twice for {encoder}: {folders[name, encoder]} and "
                f"{folder}. Give one another name."
            )
        folders[name, encoder] = Path(folder)
    return folders


def own_table(
    encoders: Sequence[str],
    inits: Sequence[str],
    modes: Sequence[str],
    resolutions: Sequence[str],
    augmentation: Sequence[str],
    tests: Sequence[TestSizes],
) -> GliomaTable:
    """Return all combinations of the options as a table without figures of the study."""
    models = [
        GliomaModel(encoder, init, "crop" if mode == "crop" else "resize", size, (*augmentation,))
        for encoder, init, mode, size in itertools.product(encoders, inits, modes, resolutions)
    ]
    return GliomaTable("Models of this run", (*tests,), dict.fromkeys(models, ()))


def measure(
    protocol: Protocol, tables: Sequence[GliomaTable], seeds: Sequence[int]
) -> GliomaProtocolResult:
    """Train and test what is not cached yet, and gather the figures of every table.

    Args:
        protocol: data, settings and cached results.
        tables: models to train, and the tests of each.
        seeds: the K seeds of the splits.

    Raises:
        ValueError: data, weights or cached results do not fit, see `benchmarks.glioma.runs`.
    """
    models = _models(tables)
    able = [model for model in models if protocol.can_train(model)]
    # Split by split, so that the first tables can be printed early.
    plan = list(itertools.product(seeds, able))
    for number, (seed, model) in enumerate(plan, start=1):

        def say(text: str, number: int = number) -> None:
            click.echo(f"[{number}/{len(plan)}] {text}", err=True)

        run_scores(protocol, Run(model, seed), models[model], say)
    resolutions = {name for table in tables for test in table.tests for name in test}
    resolutions |= {model.resolution for model in able}
    return GliomaProtocolResult(
        **made_by("glioma.protocol"),
        tables=tuple(_table(protocol, table, seeds) for table in tables),
        left_out=tuple(str(model) for model in models if model not in able),
        splits=len(seeds),
        sizes=str(protocol.sizes),
        frames=len(protocol.dataset.frames),
        epochs=protocol.settings.epochs,
        resolutions={
            name: _size_text(protocol.resolution(name)) for name in sorted(resolutions - {OWN})
        },
    )


def _models(tables: Sequence[GliomaTable]) -> dict[GliomaModel, list[TestSizes]]:
    """Return every model of the tables once, with all of its tests."""
    models: dict[GliomaModel, dict[TestSizes, None]] = {}
    for table in tables:
        for model in table.figures:
            models.setdefault(model, {}).update(dict.fromkeys(table.tests))
    return {model: list(tests) for model, tests in models.items()}


def _table(protocol: Protocol, table: GliomaTable, seeds: Sequence[int]) -> ScoresTable:
    return ScoresTable(
        title=table.title,
        tests=tuple(", ".join(test) for test in table.tests),
        rows=tuple(
            ModelRow(
                network=model.network,
                init=model.init,
                training=model.training,
                scores=_averages(protocol, model, table.tests, seeds),
                study=figures or None,
            )
            for model, figures in table.figures.items()
        ),
    )


def _averages(
    protocol: Protocol, model: GliomaModel, tests: Sequence[TestSizes], seeds: Sequence[int]
) -> tuple[Average | None, ...]:
    """Return a model's average per test from cached results; None if it cannot be trained."""
    if not protocol.can_train(model):
        return (None,) * len(tests)
    say = partial(click.echo, err=True)
    runs = [run_scores(protocol, Run(model, seed), tests, say) for seed in seeds]
    return tuple(average([run[test] for run in runs]) for test in tests)


def _size_text(resolution: str) -> str:
    size = parse_resolution(resolution)
    return f"{size[1]}x{size[0]} px" if size else "as the images are"


@click.command(help=__doc__, context_settings={"show_default": True})
@data_option
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Where runs are kept.")
@click.option(
    "--table",
    "tables",
    type=click.Choice([str(number) for number in S2_TABLES]),
    multiple=True,
    help="The study's table whose rows are trained; may be given several times.",
)
@click.option("--encoder", "encoders", type=click.Choice(NETWORKS), multiple=True)
@click.option(
    "--init",
    "inits",
    multiple=True,
    default=[RANDOM],
    help="`random`, `imagenet`, or the NAME of a --pretrained.",
)
@click.option(
    "--mode", "modes", type=click.Choice(["resize", "crop"]), multiple=True, default=["resize"]
)
@click.option(
    "--resolution",
    "resolutions",
    multiple=True,
    default=["704p"],
    help="704p, 1472p, 2592p, native or <width>x<height>, of the training.",
)
@click.option(
    "--augmentation", type=click.Choice(list(AUGMENTATIONS)), multiple=True, help="For --encoder."
)
@click.option(
    "--test",
    "tests",
    multiple=True,
    default=[f"{OWN},{NATIVE}"],
    help="R1,R2 for --encoder: predicted at R1, compared at R2; `own` is the resolution of the "
    "training, that of the frames for crops.",
)
@click.option(
    "--pretrained",
    multiple=True,
    help="NAME=DIR: weights that rows with the initialisation NAME start from, whole models. One "
    "for every encoder; `livecell` and `livecell-57-30` are in the study's tables.",
)
@click.option("--splits", type=click.IntRange(1), default=STUDY_SPLITS, help="K random splits.")
@click.option("--sizes", default=str(SplitSizes()), help="Training/validation/test images.")
@click.option(
    "--scale",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    help="Of 704p, 1472p and 2592p, to shorten a trial.",
)
@click.option("--preset", type=click.Choice(list(GLIOMA_PRESETS)), default="study")
@click.option("--settings", "file", type=click.Path(path_type=Path), help=SETTINGS_HELP)
@click.option("--epochs", type=int, help="Passes over the training images, at most.")
@click.option("--bf16/--no-bf16", default=None, help="Mixed precision in bfloat16.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Default: in OUT.")
@click.option("--markdown", type=click.Path(path_type=Path), help="Default: in OUT.")
def main(
    data: tuple[str, ...],
    out: Path,
    tables: tuple[str, ...],
    encoders: tuple[str, ...],
    inits: tuple[str, ...],
    modes: tuple[str, ...],
    resolutions: tuple[str, ...],
    augmentation: tuple[str, ...],
    tests: tuple[str, ...],
    pretrained: tuple[str, ...],
    splits: int,
    sizes: str,
    scale: float,
    preset: str,
    file: Path | None,
    json_file: Path | None,
    markdown: Path | None,
    **overrides: Any,
) -> None:
    """Run the protocol; the module's docstring is the help."""
    wanted = [S2_TABLES[int(number)] for number in tables]
    own_tests, split_sizes = read_tests(tests), read_sizes(sizes)
    if encoders:
        wanted.append(own_table(encoders, inits, modes, resolutions, augmentation, own_tests))
    if not wanted:
        raise click.UsageError("there is nothing to do; give --table or --encoder.")
    settings = choose_settings(GLIOMA_PRESETS, preset, file, **overrides)
    dataset, hashes = read_data(data, one_class=True)
    try:
        protocol = Protocol(
            dataset=dataset,
            hashes=hashes,
            sizes=split_sizes,
            settings=settings,
            scale=scale,
            checkpoints=read_pretrained(pretrained),
            results=KeptResults(out),
        )
        protocol.begin()
        result = measure(protocol, wanted, range(splits))
    except KeyboardInterrupt as error:
        raise click.ClickException(
            f"interrupted. {out} keeps what is finished: the same command goes on."
        ) from error
    except ValidationError as error:
        raise click.ClickException(f"a row cannot be trained:{explain(error)}") from error
    except (ValueError, OSError) as error:  # CheckpointError and OtherProtocolError among them
        raise click.ClickException(str(error)) from error
    write_result(
        result,
        protocol_page(result),
        json_file or out / "result.json",
        markdown or out / "result.md",
    )


if __name__ == "__main__":
    main()
