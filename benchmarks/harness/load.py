"""Frames for measurements: rendered ones by size and number of cells, and real ones."""

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
"""Mean diameter of the rendered cells in pixels, on frames of any size. It is that of rendered
training frames, since a network sees every frame at the scale that it was trained at."""

MAX_PROMPTS = 500
"""Maximum number of cells of a frame that are prompted."""

IMAGE_SIZES = ((640, 480), (1024, 1024), (2048, 2048), (2592, 1952))
"""(width, height) in pixels of camera frames."""

CELL_COUNTS = (0, 15, 100, 500, 2000)


@dataclass(frozen=True)
class LoadFrame:
    """A frame, and the prompts that may go with it."""

    image: npt.NDArray[Any]
    """uint16 ``[H, W]``."""
    cells: int
    prompts: Prompts | None
    """A box per cell, for prompted pipelines; None if there is no cell."""


def load_frame(width: int, height: int, cells: int, seed: int = 0) -> LoadFrame:
    """Render a frame; the same arguments give the same frame.

    If the cells do not fit, they are rendered smaller.
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
    prompts = Prompts(boxes=np.array(boxes[:MAX_PROMPTS], np.float32)) if boxes else None
    return LoadFrame(image, cells, prompts)


def read_frames(folder: Path) -> list[LoadFrame]:
    """Read a folder's images, in the order of their names.

    Raises:
        CytoserveError: an image is no frame.
        click.UsageError: there is no image.
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
    """Return the number of cells, or of centres of a foreground; 0 if it has no centres."""
    if isinstance(answer, Cells):
        return len(answer)
    return 0 if answer.centres is None else len(answer.centres)


USUAL_SIZE = (2048, 2048)
"""Width and height in pixels of the frames with growing numbers of cells."""

USUAL_CELLS = 15
"""Number of cells in the frames of growing size."""


@dataclass(frozen=True, order=True)
class Case:
    """One kind of frame."""

    width: int
    height: int
    cells: int

    @property
    def megapixels(self) -> float:
        """Size in millions of pixels."""
        return self.width * self.height / 1e6

    @cache  # noqa: B019 - thousands of cells take seconds to render, and cases are few
    def frame(self) -> LoadFrame:
        """Render such a frame once."""
        return load_frame(self.width, self.height, self.cells)


def cross(sizes: Sequence[tuple[int, int]], counts: Sequence[int]) -> list[Case]:
    """Return every size at one count of cells, and every count at one size.

    The fixed ones are `USUAL_CELLS` and `USUAL_SIZE`, or the first count and the last size if these
    are not given.
    """
    count = USUAL_CELLS if USUAL_CELLS in counts else counts[0]
    size = USUAL_SIZE if USUAL_SIZE in sizes else sizes[-1]
    cases = [Case(*each, count) for each in sizes] + [Case(*size, each) for each in counts]
    return list(dict.fromkeys(cases))


def product(sizes: Sequence[tuple[int, int]], counts: Sequence[int]) -> list[Case]:
    """Return every size with every count."""
    return [Case(*size, count) for size in sizes for count in counts]


def asked(pipeline: str, cases: Sequence[Case]) -> list[Case]:
    """Return the cases that a pipeline answers in one request, and that differ for it.

    Prompted pipelines need a cell. Semantic pipelines treat all pixels alike, so cells make no
    difference to them: they get the first count of each size.
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
    """Return the named pipelines, or all that the repository has.

    Raises:
        click.ClickException: it lacks a named pipeline, has none, or is no repository.
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
"""Shifts for the whole process: no measurement may reuse a frame that the server has seen."""


def new_frames(image: Image, count: int) -> Iterator[Image]:
    """Yield ``count`` frames of the same pixels ``[H, W]`` or ``[H, W, C]``, each shifted further.

    They have the same cells at other places, so they are the same work but different frames, until
    all ``H * W`` shifts are used up.
    """
    height, width = image.shape[:2]
    for _ in range(count):
        down, right = divmod(next(_SHIFTS), width)
        yield np.roll(image, (down % height, right), axis=(0, 1))


def each_time_new(run: Callable[[Image], Answer], image: Image, times: int) -> Callable[[], Answer]:
    """Bind ``run`` to a new frame of `new_frames` for each of its ``times`` calls.

    The frames are made beforehand, so that this takes no measured time.
    """
    frames = iter(list(new_frames(image, times)))
    return lambda: run(next(frames))
