"""Frames to measure with, and the one call that every kind of pipeline answers them by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from cytoserve import Cells, Client, Foreground, Prompts
from cytoserve.contract import PIPELINES
from cytoserve.images import SUFFIXES, read_frame
from training.rendered import RenderSettings, render_frame

CELL_DIAMETER = 36.0
"""Mean diameter of the rendered cells in pixels, on a frame of any size: that of rendered training
frames, since a network sees every frame at the scale that it was trained at."""

MOST_PROMPTS = 500
"""Of a frame with more cells so many are prompted."""

IMAGE_SIZES = ((640, 480), (1024, 1024), (2048, 2048), (2592, 1952))
"""(width, height) in pixels of the frames of cameras."""

CELL_COUNTS = (0, 15, 100, 500, 2000)


@dataclass(frozen=True)
class LoadFrame:
    """A rendered frame and what may be asked of it."""

    image: npt.NDArray[Any]
    """uint16 ``[H, W]``."""
    cells: int
    prompts: Prompts | None
    """A box for every cell, for pipelines that are prompted; None where there is no cell."""


def load_frame(width: int, height: int, cells: int, seed: int = 0) -> LoadFrame:
    """Render a frame; the same for the same arguments.

    Where the cells do not fit, they are rendered smaller.
    """
    settings = RenderSettings(
        width=width,
        height=height,
        cells=cells,
        mean_diameter=CELL_DIAMETER,
        shrink_to_fit=True,
    )
    image, truth = render_frame(settings, seed)
    boxes = [cell.box for cell in truth]
    prompts = Prompts(boxes=np.array(boxes[:MOST_PROMPTS], np.float32)) if boxes else None
    return LoadFrame(image, cells, prompts)


def read_frames(folder: Path) -> list[LoadFrame]:
    """Read a folder's images, in the order of their names.

    Raises:
        CytoserveError: one of them is no frame.
        click.UsageError: there is none.
    """
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not files:
        raise click.UsageError(f"--frames {folder} must hold PNG, JPEG, BMP or TIFF files: none.")
    return [LoadFrame(read_frame(file), cells=0, prompts=None) for file in files]


def ask(client: Client, pipeline: str, frame: LoadFrame) -> Cells | Foreground:
    """Send ``frame`` through ``pipeline`` with the client's defaults.

    Raises:
        ValueError: the pipeline needs prompts, and the frame has no cell.
    """
    kind = PIPELINES[pipeline]
    if kind.is_semantic:
        return client.foreground(frame.image, pipeline)
    if not kind.is_prompted:
        return client.segment(frame.image, pipeline)
    if frame.prompts is None:
        raise ValueError(f"{pipeline} answers prompts: give a frame with at least one cell.")
    return client.prompt(frame.image, frame.prompts, pipeline)


def count_answered(answer: Cells | Foreground) -> int:
    """Cells of an answer, or centres of a foreground; 0 where it has none."""
    if isinstance(answer, Cells):
        return len(answer)
    return 0 if answer.centres is None else len(answer.centres)
