"""Frames to measure with: rendered ones by size and number of cells, and real ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np
import numpy.typing as npt

from cytoserve import Cells, Client, Foreground, Prompts
from cytoserve.contract import PIPELINES
from cytoserve.images import SUFFIXES, read_frame
from server.errors import ServerError
from server.repository import survey
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


USUAL_SIZE = (2048, 2048)
"""Width and height of the frames along which the cells grow."""

USUAL_CELLS = 15
"""Cells of the frames along which the size grows."""


@dataclass(frozen=True, order=True)
class Case:
    """One kind of frame."""

    width: int
    height: int
    cells: int

    @property
    def megapixels(self) -> float:
        """Millions of pixels."""
        return self.width * self.height / 1e6

    @cache  # noqa: B019 - thousands of cells take seconds to render, and cases live on
    def frame(self) -> LoadFrame:
        """Render such a frame, once."""
        return load_frame(self.width, self.height, self.cells)


def cross(sizes: Sequence[tuple[int, int]], counts: Sequence[int]) -> list[Case]:
    """Every size at one count of cells, and every count at one size: no full product.

    The fixed ones are `USUAL_CELLS` and `USUAL_SIZE`, or the first count and the last size where
    these are not among those given.
    """
    count = USUAL_CELLS if USUAL_CELLS in counts else counts[0]
    size = USUAL_SIZE if USUAL_SIZE in sizes else sizes[-1]
    cases = [Case(*each, count) for each in sizes] + [Case(*size, each) for each in counts]
    return list(dict.fromkeys(cases))


def product(sizes: Sequence[tuple[int, int]], counts: Sequence[int]) -> list[Case]:
    """Every size with every count."""
    return [Case(*size, count) for size in sizes for count in counts]


def asked(pipeline: str, cases: Sequence[Case]) -> list[Case]:
    """The cases that a pipeline answers in one request, and that differ for it.

    Prompted pipelines need a cell. To semantic ones, which look at all pixels alike, cells make no
    difference: of every size they are asked with the first count.
    """
    kind = PIPELINES[pipeline]
    fitting = [
        case
        for case in cases
        if case.width * case.height <= kind.max_pixels and (case.cells or not kind.is_prompted)
    ]
    if not kind.is_semantic:
        return fitting
    first: dict[tuple[int, int], Case] = {}
    for case in fitting:
        first.setdefault((case.width, case.height), case)
    return list(first.values())


def exported(repository: Path, names: Sequence[str]) -> list[str]:
    """The named pipelines, or all, that the repository has.

    Raises:
        click.ClickException: it lacks one that is named, or has none, or is no repository.
    """
    try:
        exports = survey(repository, names or PIPELINES)
    except ServerError as error:
        raise click.ClickException(str(error)) from error
    missing = [export for export in exports if export.missing]
    if missing and (names or len(missing) == len(exports)):
        raise click.ClickException(
            f"A pipeline must be exported to be measured; {repository} lacks "
            f"{', '.join(export.pipeline.name for export in missing)}. Make it with: "
            f"{missing[0].command}"
        )
    return [export.pipeline.name for export in exports if not export.missing]


Image = npt.NDArray[Any]
Answer = TypeVar("Answer")

_SHIFTS = itertools.count(1)
"""Of the whole process: what one measurement has shown to the server, the next must not."""


def new_frames(image: Image, count: int) -> Iterator[Image]:
    """Yield ``count`` frames of the same pixels ``[H, W]`` or ``[H, W, C]``, each shifted anew.

    The same cells at other places: the same work, but another frame, until all ``H * W`` shifts
    are used up.
    """
    height, width = image.shape[:2]
    for _ in range(count):
        down, right = divmod(next(_SHIFTS), width)
        yield np.roll(image, (down % height, right), axis=(0, 1))


def each_time_new(run: Callable[[Image], Answer], image: Image, times: int) -> Callable[[], Answer]:
    """Bind ``run`` to another frame of :func:`new_frames` at each of its calls.

    The frames are made beforehand, outside of any time that is taken.
    """
    frames = iter(list(new_frames(image, times)))
    return lambda: run(next(frames))
