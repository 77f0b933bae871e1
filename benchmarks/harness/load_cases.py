"""What is measured: pipelines, with frames along image sizes and along counts of cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import click

from benchmarks.harness.load import LoadFrame, load_frame
from cytoserve.contract import PIPELINES
from server.errors import ServerError
from server.repository import survey

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
