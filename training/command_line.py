"""What the training commands share: data sets and settings as they are named on a command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import yaml
from pydantic import BaseModel, ValidationError

from training.annotated import AnnotatedDataset, AnnotationError
from training.checkpoint import hash_files
from training.readers import read_annotated

Settings = TypeVar("Settings", bound=BaseModel)

DATA_HELP = (
    "Annotated data set: a folder in COCO, label image or YOLO-seg layout. DIR@FILE takes only "
    "the frames that FILE names, one a line without suffix. May be given several times."
)


def read_data(arguments: Sequence[str], one_class: bool) -> tuple[AnnotatedDataset, dict[str, str]]:
    """Read and join the data sets of ``--data`` arguments.

    Args:
        arguments: ``DIR`` or ``DIR@FILE``.
        one_class: call every cell "cell"; else all data sets must list the same classes.

    Returns:
        The joined data set, and for the recipe a sha256 of every folder's files.

    Raises:
        click.UsageError: a folder cannot be read, or the classes differ.
    """
    datasets, hashes = [], {}
    for argument in arguments:
        directory, _, listing = argument.partition("@")
        try:
            dataset = read_annotated(Path(directory))
            if listing:
                dataset = dataset.subset(Path(listing).read_text().split())
        except (AnnotationError, OSError) as error:
            raise click.UsageError(f"--data {argument}: {error}") from error
        datasets.append(dataset.as_one_class() if one_class else dataset)
        hashes[argument] = hash_files(p for p in Path(directory).rglob("*") if p.is_file())
    names = {dataset.class_names for dataset in datasets}
    if len(names) != 1:
        raise click.UsageError(f"data sets trained on together must list the same classes: {names}")
    frames = tuple(frame for dataset in datasets for frame in dataset.frames)
    return AnnotatedDataset(names.pop(), frames), hashes


def choose_settings(
    presets: Mapping[str, Settings], preset: str, file: Path | None, **overrides: Any
) -> Settings:
    """A preset, changed by a YAML file, changed by options that were given (not None).

    Raises:
        click.UsageError: the file holds something else than valid settings.
    """
    base = presets[preset]
    try:
        from_file = yaml.safe_load(file.read_text()) or {} if file else {}
        given = {name: value for name, value in overrides.items() if value is not None}
        return type(base).model_validate({**base.model_dump(), **from_file, **given})
    except (ValidationError, yaml.YAMLError, TypeError) as error:
        raise click.UsageError(f"settings {file or ''}: {error}") from error
