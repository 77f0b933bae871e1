"""Frames to prove a chain on: the user's own where they can be found."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import click
import numpy.typing as npt

from cytoserve.errors import CytoserveError
from cytoserve.images import SUFFIXES, read_frame
from training.checkpoint import Recipe
from training.rendered import RenderSettings, render_frame

COUNT = 4


def parity_frames(given: Path | None, recipe: Recipe) -> dict[str, npt.NDArray[Any]]:
    """Name -> frame, at most ``COUNT``, spread evenly over what there is.

    Args:
        given: an image file or a folder of them; None looks where the recipe says its training
            data were, and renders frames where those are gone.
        recipe: of the pipeline's network.

    Raises:
        click.UsageError: ``given`` holds no image that can be read.
    """
    files = _images(given) if given else _trained_on(recipe)
    if given and not files:
        raise click.UsageError(f"--frames {given}: no image with a suffix of {SUFFIXES}.")
    if not files:
        settings = RenderSettings(height=640, width=640, cells=15)
        return {f"rendered {seed}": render_frame(settings, seed)[0] for seed in range(COUNT)}
    step = max(1, len(files) // COUNT)
    try:
        return {file.name: read_frame(file) for file in files[::step][:COUNT]}
    except CytoserveError as error:
        raise click.UsageError(f"--frames: {error}") from error


def all_frames(given: Path, left_out: Collection[Path]) -> dict[str, npt.NDArray[Any]]:
    """Name -> frame, of an image file or of all in a folder.

    Raises:
        click.UsageError: there is none that can be read, or one is among ``left_out``.
    """
    files = _images(given)
    if not files:
        raise click.UsageError(f"--frames {given}: no image with a suffix of {SUFFIXES}.")
    shared = {file.resolve() for file in files} & {file.resolve() for file in left_out}
    if shared:
        raise click.UsageError(
            f"--frames {given}: {len(shared)} of its {len(files)} images are in --data as well, "
            f"{min(shared)} for one; prove on frames that nothing was chosen by."
        )
    try:
        return {file.name: read_frame(file) for file in files}
    except CytoserveError as error:
        raise click.UsageError(f"--frames: {error}") from error


def _trained_on(recipe: Recipe) -> list[Path]:
    """Images of the data sets in the recipe: they lie in its folder ``images`` or in itself."""
    folders = [Path(data.partition("@")[0]) for data in recipe.data]
    return [file for folder in folders for file in _images(folder / "images") or _images(folder)]


def _images(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    if not place.is_dir():
        return []
    return sorted(file for file in place.iterdir() if file.suffix.lower() in SUFFIXES)
