"""The command line of the trainings: options, settings, and data sets with their split.

The exports and benchmarks read data sets by it too, so it imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click
import yaml
from pydantic import BaseModel, ValidationError

from training.checkpoint import RANDOM, explain, hash_files
from training.datasets.annotated import AnnotatedDataset, AnnotationError
from training.datasets.readers import read_annotated
from training.datasets.scale import SIMILAR, bring_together
from training.datasets.splits import split_by_frame

Settings = TypeVar("Settings", bound=BaseModel)

Command = TypeVar("Command", bound=Callable[..., None])

DATA_HELP = (
    "Annotated data set: a folder in COCO, label image, YOLO-seg or Cell Tracking Challenge "
    "layout, or the path of one COCO JSON. DIR@FILE takes only the frames that FILE names, one a "
    "line: file names without suffix, of Cell Tracking sequences such as 01_t000. May be given "
    "several times."
)

data_option = click.option("--data", multiple=True, required=True, help=DATA_HELP)

pixel_size_option = click.option(
    "--pixel-size",
    "pixel_sizes",
    type=click.FloatRange(min=0, min_open=True),
    multiple=True,
    help="Side of a pixel of the frames in micrometres: one for all --data, or one for each. "
    "Default: what OME-TIFF, ImageJ TIFF or the annotations tell.",
)

RESUME_HELP = "Go on with the run that was cut off in OUT; give the other options as before."

FINISH_HELP = (
    "Take the best epoch so far of the run that was cut off in OUT, choose its threshold and write "
    "the checkpoint; give the other options as before."
)

MINUTES_HELP = (
    "Minutes to train for, instead of --epochs. Reading data and choosing the threshold come on "
    "top."
)

DEVICES_HELP = (
    "GPUs of this machine, or processes where there is none. A step sees a batch of each.  "
    "[default: 1]"
)

NODES_HELP = (
    "Machines that train together, with OUT in a folder that all see. Start the same command on "
    "each, with NODE_RANK, MASTER_ADDR and MASTER_PORT in the environment, or by SLURM.  "
    "[default: 1]"
)

SETTINGS_HELP = "YAML file of settings that change the preset's."


def run_options(
    presets: Iterable[str],
    *,
    init: str,
    seed: str,
    init_default: str | None = RANDOM,
    parallel: bool = True,
) -> Callable[[Command], Command]:
    """Add the options of every run: ``out init preset file epochs minutes bf16 seed resume
    finish``.

    Args:
        presets: names of settings, ``study`` among them.
        init: help text of ``--init``, which says where the weights may come from.
        seed: help text of ``--seed``, which says what is drawn.
        init_default: default of ``--init``; None lets the command choose.
        parallel: whether the training can use several devices; adds ``devices nodes``.
    """
    several = (
        click.option("--devices", type=int, help=DEVICES_HELP),
        click.option("--nodes", type=int, help=NODES_HELP),
    )
    return _add_options(
        click.option(
            "--out", type=click.Path(path_type=Path), required=True, help="Checkpoint folder."
        ),
        click.option("--init", default=init_default, help=init),
        click.option(
            "--preset", type=click.Choice(list(presets)), default="study", help="Settings by name."
        ),
        click.option(
            "--settings",
            "file",
            type=click.Path(path_type=Path),
            help=SETTINGS_HELP,
        ),
        click.option("--epochs", type=int, help="Passes over the data."),
        click.option("--minutes", type=float, help=MINUTES_HELP),
        click.option("--bf16/--no-bf16", default=None, help="Mixed precision in bfloat16."),
        *(several if parallel else ()),
        click.option("--seed", type=click.IntRange(min=0), default=0, help=seed),
        click.option("--resume", is_flag=True, help=RESUME_HELP),
        click.option("--finish", is_flag=True, help=FINISH_HELP),
    )


def split_options(command: Command) -> Command:
    """Add ``--data``, and the validation frames or their share; see :func:`read_split`."""
    return _add_options(
        data_option,
        click.option(
            "--validation", multiple=True, help="The same, of frames to validate on only."
        ),
        click.option(
            "--validation-share",
            type=float,
            help="Share of the frames, where none are given to validate.",
        ),
    )(command)


def _add_options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def add(command: Command) -> Command:
        for option in reversed(options):  # the last one applied comes first in --help
            command = option(command)
        return command

    return add


def choose_settings(
    presets: Mapping[str, Settings], preset: str, file: Path | None, **overrides: Any
) -> Settings:
    """Take a preset, override it by a YAML file, then by the options that were given (not None).

    Raises:
        click.UsageError: the file cannot be read, the settings are not valid, or both epochs and
            minutes were given.
    """
    base = presets[preset]
    given = {name: value for name, value in overrides.items() if value is not None}
    if {"epochs", "minutes"} <= given.keys():
        raise click.UsageError(
            "a run ends after its --epochs or after its --minutes; given: "
            f"{given['epochs']} epochs and {given['minutes']:g} minutes. Give one of them."
        )
    if "epochs" in given:
        given["minutes"] = None  # of the file
    from_file = _read_yaml(file) if file else {}
    try:
        return type(base).model_validate({**base.model_dump(), **from_file, **given})
    except ValidationError as error:
        origin = f"{file} and options" if file else "options"
        raise click.UsageError(f"settings of {origin} are not valid:{explain(error)}") from error


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{file} cannot be read as YAML: {error}") from error
    if settings is None:
        return {}
    if not isinstance(settings, dict) or not all(isinstance(key, str) for key in settings):
        raise click.UsageError(f"{file}: settings are lines `name: value`; found {settings!r}.")
    return settings


def read_data(
    arguments: Sequence[str],
    one_class: bool,
    pixel_sizes_um: Sequence[float] = (),
    *,
    own_pixels: bool = False,
) -> tuple[AnnotatedDataset, dict[str, str]]:
    """Read and join the data sets of ``--data`` arguments, at the scale of the first.

    Args:
        arguments: ``DIR`` or ``DIR@FILE``.
        one_class: give every cell the class "cell"; otherwise all data sets must list the same
            classes.
        pixel_sizes_um: values of ``--pixel-size``: none, one for all, or one per argument.
        own_pixels: leave every data set at its own scale, for a network that is to know cells of
            all their sizes.

    Returns:
        The joined data set, and a sha256 of every folder's files for the recipe.

    Raises:
        click.UsageError: a folder cannot be read, frames share a name, the classes differ, or
            there are too few or too many pixel sizes.
    """
    datasets, hashes = [], {}
    sizes = _pixel_sizes(arguments, pixel_sizes_um)
    for argument, size in zip(arguments, sizes, strict=True):
        dataset, hashes[argument] = _read_one(argument)
        dataset = dataset if size is None else replace(dataset, pixel_size_um=size)
        datasets.append(dataset.as_one_class() if one_class else dataset)
    names = datasets[0].class_names
    for argument, dataset in zip(arguments, datasets, strict=True):
        if dataset.class_names != names:
            raise click.UsageError(
                "data sets trained on together must list the same classes in the same order: "
                f"{arguments[0]} has {', '.join(names)}; "
                f"{argument} has {', '.join(dataset.class_names)}."
            )
    together = datasets if own_pixels else bring_together(datasets)
    frames = tuple(frame for dataset in together for frame in dataset.frames)
    size = None if own_pixels and len(datasets) > 1 else datasets[0].pixel_size_um
    try:
        return AnnotatedDataset(names, frames, size), hashes
    except AnnotationError as error:
        raise click.UsageError(f"--data {' '.join(arguments)}: {error}") from error


def _pixel_sizes(arguments: Sequence[str], given: Sequence[float]) -> Sequence[float | None]:
    if not given:
        return [None] * len(arguments)
    if len(given) not in (1, len(arguments)):
        raise click.UsageError(
            f"--pixel-size is given once for all data sets, or once for each; given: {len(given)} "
            f"for {len(arguments)} data sets. Give it in the order of --data."
        )
    return list(given) * (len(arguments) // len(given))


def _read_one(argument: str) -> tuple[AnnotatedDataset, str]:
    directory, _, listing = argument.partition("@")
    files = [path for path in Path(directory).rglob("*") if path.is_file()]
    try:
        dataset = read_annotated(Path(directory))
        if Path(directory).is_file():  # one of several JSON files; its images lie where it says
            files = [Path(directory), *(frame.path for frame in dataset.frames)]
        if listing:
            dataset = dataset.subset(_names(Path(listing)))
            files.append(Path(listing))
        return dataset, hash_files(files)
    except (ValueError, OSError) as error:  # AnnotationError and UnicodeDecodeError among them
        raise click.UsageError(f"--data {argument}: {error}") from error


def _names(listing: Path) -> list[str]:
    lines = map(str.strip, listing.read_text().splitlines())
    return [line for line in lines if line]


def read_split(
    data: Sequence[str],
    validation: Sequence[str],
    *,
    share: float,
    seed: int,
    one_class: bool = True,
    pixel_sizes: Sequence[float] = (),
    select: Callable[[AnnotatedDataset], AnnotatedDataset] | None = None,
) -> tuple[AnnotatedDataset, AnnotatedDataset, dict[str, str]]:
    """Read the frames to train on and the frames to validate on.

    Args:
        data: arguments of ``--data``.
        validation: arguments of ``--validation``; if there are none, a share of ``data`` is drawn.
        share: share of the frames of ``data`` to validate on, above 0 and below 1.
        seed: random seed of the draw.
        one_class: see :func:`read_data`.
        pixel_sizes: values of ``--pixel-size`` in micrometres: none, one for all frames, or one per
            argument of ``data``, followed by one per argument of ``validation`` if there are more.
        select: selects the frames that may be drawn; None means all.

    Returns:
        Frames to train on, frames to validate on, and hashes as in ``read_data``.

    Raises:
        click.UsageError: see ``read_data``.
        ValueError: the frames cannot be split, see :func:`training.datasets.splits.split_by_frame`.
    """
    own, others = pixel_sizes, pixel_sizes
    if validation and len(pixel_sizes) > 1:
        own, others = pixel_sizes[: len(data)], pixel_sizes[len(data) :]
    train, hashes = read_data(data, one_class, own)
    if not validation:
        return *split_by_frame(select(train) if select else train, share, seed), hashes
    kept, kept_hashes = read_data(validation, one_class, others)
    return train, _at_scale_of(train, kept), hashes | kept_hashes


def _at_scale_of(train: AnnotatedDataset, kept: AnnotatedDataset) -> AnnotatedDataset:
    """Bring ``kept`` to the common scale of ``train``, if both state their pixel size.

    The sizes of cells are not compared: those in a few frames may be larger by chance.
    """
    if train.pixel_size_um is None or kept.pixel_size_um is None:
        return kept
    factor = kept.pixel_size_um / train.pixel_size_um
    if 1 / SIMILAR <= factor <= SIMILAR:
        return kept
    frames = tuple(replace(frame, scale=frame.scale * factor) for frame in kept.frames)
    return replace(kept, frames=frames)
