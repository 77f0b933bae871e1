"""Options and the split, shared by commands that train from random or given weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import click

from training.checkpoint import RANDOM
from training.datasets.annotated import AnnotatedDataset
from training.datasets.scale import SIMILAR
from training.datasets.splits import split_by_frame
from training.run.command_line import SETTINGS_HELP, data_option, read_data
from training.run.folder import RESUME_HELP

Command = TypeVar("Command", bound=Callable[..., None])


def run_options(presets: Iterable[str], *, init: str, seed: str) -> Callable[[Command], Command]:
    """Add the options of every run: ``out init preset file epochs bf16 seed resume``.

    Args:
        presets: names of settings, ``study`` among them.
        init: help text of ``--init``, which says where the weights may come from.
        seed: help text of ``--seed``, which says what is drawn.
    """
    return _add_options(
        click.option(
            "--out", type=click.Path(path_type=Path), required=True, help="Checkpoint folder."
        ),
        click.option("--init", default=RANDOM, help=init),
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
        click.option("--bf16/--no-bf16", default=None, help="Mixed precision in bfloat16."),
        click.option("--seed", type=click.IntRange(min=0), default=0, help=seed),
        click.option("--resume", is_flag=True, help=RESUME_HELP),
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
        one_class: see :func:`training.run.command_line.read_data`.
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
