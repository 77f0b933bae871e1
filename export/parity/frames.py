"""Frames to prove a chain on: the user's own, where they can be found."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import click
import numpy.typing as npt

from cytoserve.errors import CytoserveError
from cytoserve.images import SUFFIXES, read_integers
from training.checkpoint import Recipe
from training.datasets.annotated import AnnotationError
from training.datasets.readers import read_annotated
from training.datasets.readers.files import images_in
from training.rendered import RenderSettings, render_frame

COUNT = 4

MAX_PARITY_SIDE = 1280
"""Maximum side, in pixels, of a frame that a chain is proven on: several tiles with seams.

Libraries hold one mask as large as the frame per cell: 4 GB for 200 cells in 2048 x 2048 pixels."""


def parity_frames(given: Path | None, recipe: Recipe) -> dict[str, npt.NDArray[Any]]:
    """Name -> frame, at most ``COUNT``, spread evenly; large frames are cropped to their middle.

    Args:
        given: an image file or a folder of images; None looks where the recipe says its training
            data were, and renders frames if those are gone.
        recipe: recipe of the pipeline's network.

    Raises:
        click.UsageError: ``given`` holds no image that can be read.
    """
    files = _images(given) if given else _trained_on(recipe)
    if given and not files:
        raise click.UsageError(f"--frames {given}: no image with a suffix of {SUFFIXES}.")
    if not files:
        settings = RenderSettings(height=640, width=640, cells=15)
        return {f"rendered {seed}": render_frame(settings, seed)[0] for seed in range(COUNT)}
    count = min(COUNT, len(files))
    spread = [files[index * len(files) // count] for index in range(count)]
    try:
        return {file.name: _middle(read_integers(file)) for file in spread}
    except CytoserveError as error:
        remedy = "" if given else " It was trained on; prove on other frames with --frames."
        raise click.UsageError(f"{error}{remedy}") from error


def _middle(frame: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The middle of ``[H, W]`` or ``[H, W, C]``, at most `MAX_PARITY_SIDE` pixels per side."""
    top, left = (max(0, side - MAX_PARITY_SIDE) // 2 for side in frame.shape[:2])
    return frame[top : top + MAX_PARITY_SIDE, left : left + MAX_PARITY_SIDE]


def all_frames(given: Path, left_out: Collection[Path]) -> dict[str, npt.NDArray[Any]]:
    """Name -> frame, for an image file or for all images in a folder.

    Raises:
        click.UsageError: no image can be read, or one is among ``left_out``.
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
        return {file.name: read_integers(file) for file in files}
    except CytoserveError as error:
        raise click.UsageError(f"--frames: {error}") from error


def _trained_on(recipe: Recipe) -> list[Path]:
    """Images of the data sets in the recipe."""
    return [file for data in recipe.data for file in _images_of(Path(data.partition("@")[0]))]


def _images_of(data: Path) -> list[Path]:
    """Images of a data set: in its folder ``images``, in the folder itself, or as annotated."""
    # Annotations come last: those of a large data set take minutes to read.
    if data.is_dir() and (files := images_in(data / "images") or _images(data)):
        return files
    try:
        return [frame.path for frame in read_annotated(data).frames]
    except (AnnotationError, OSError):
        return []  # gone, or now another folder


def _images(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    if not place.is_dir():
        return []
    return sorted(file for file in place.iterdir() if file.suffix.lower() in SUFFIXES)
