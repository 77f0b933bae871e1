"""What the commands that train from random or given weights share: options, and the split."""

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
    """The options of every run: ``out init preset file epochs bf16 seed resume`` of its command.

    Args:
        presets: names of settings, ``study`` among them.
        init: help of ``--init``, which says what the weights may come from.
        seed: help of ``--seed``, which says what is drawn.
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
    """``--data``, and the frames to validate on or their share; see :func:`read_split`."""
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
        for option in reversed(options):  # the last that is applied stands first in --help
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
    """Read what to train on and what to validate on.

    Args:
        data: arguments of ``--data``.
        validation: of ``--validation``; where there are none, a share of ``data`` is drawn.
        share: of the frames of ``data``, above 0 and below 1.
        seed: of the draw.
        one_class: see :func:`training.run.command_line.read_data`.
        pixel_sizes: values of ``--pixel-size`` in micrometres: none, one for all frames, or one
            for each argument of ``data``, and then of ``validation`` if there are more.
        select: the frames that may be drawn; None means all.

    Returns:
        Frames to train on, others to validate on, and hashes as of ``read_data``.

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
    """``kept`` with its frames at the common scale of ``train``, where both tell their pixel size.

    The cells are not compared: those of a few frames may be larger by chance.
    """
    if train.pixel_size_um is None or kept.pixel_size_um is None:
        return kept
    factor = kept.pixel_size_um / train.pixel_size_um
    if 1 / SIMILAR <= factor <= SIMILAR:
        return kept
    frames = tuple(replace(frame, scale=frame.scale * factor) for frame in kept.frames)
    return replace(kept, frames=frames)
