"""Measures the shipped models on test images of every kind, through the server.

\b
    python -m benchmarks.general.measure --data data --json general.json \\
        --model-repository runs/general/model_repository

Cells are asked for as a new user does, without a word about scale, at the threshold of the card;
and once more with the cells' median diameter told. False cells are counted in the empty frames of
`benchmarks.fields`. The U-Net's foreground is compared with all annotated pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from benchmarks.fields.empty_frames import empty_frames
from benchmarks.fields.views import ServedPipeline, measure_empty, measure_foreground
from benchmarks.general.result import GeneralResult, KindRow, general_page
from benchmarks.harness.options import json_option, markdown_option, repository_option
from benchmarks.harness.results import made_by, write_result
from cytoserve import Cells, Client
from cytoserve.contract import SCORE_THRESHOLD
from server.embedded import EmbeddedServer
from training.datasets.annotated import AnnotatedFrame
from training.datasets.scale import measure_scale
from training.evaluation import FrameMatches, match_cells, quality
from training.run.command_line import read_data

CELLS, FOREGROUND = "yolo", "glioma_unet"

TIMEOUT = 300.0
"""Seconds that a frame may take."""

EMPTY_SEED = 0
"""Seed of the empty frames, that of `benchmarks.fields`."""


@dataclass(frozen=True)
class Kind:
    """Test images of one kind."""

    name: str
    folder: str
    """Data set in the data folder."""
    names: str
    """File that lists the images."""


KINDS = (
    Kind("fluorescence nuclei", "dsb2018", "benchmarks/general/test-fluorescence.txt"),
    Kind("nuclei in stained tissue", "dsb2018", "benchmarks/general/test-stained-tissue.txt"),
    Kind("nuclei in bright field", "dsb2018", "benchmarks/general/test-bright-field.txt"),
    Kind("blood smear", "bccd", "benchmarks/bccd/test.txt"),
    Kind("phase contrast", "t98g", "benchmarks/t98g/test.txt"),
)
NUCLEI = "dsb2018"


def at_edge(found: Cells, frame: AnnotatedFrame) -> NDArray[np.bool_]:
    """Tell which of the found cells touch the frame's edge: bool ``[N]``."""
    low, high = found.boxes[:, :2] <= 1, found.boxes[:, 2:] >= (frame.width - 1, frame.height - 1)
    edges: NDArray[np.bool_] = low.any(axis=1) | high.any(axis=1)
    return edges


def without_edge(matches: FrameMatches, found: Cells, frame: AnnotatedFrame) -> FrameMatches:
    """Return the matches without false cells at the frame's edge.

    Annotators of blood smears leave out nearly all cells that the edge cuts, so a cell found there
    is neither right nor wrong.
    """
    matched = {match.found_index for match in matches.matches}
    odd = sum(1 for index in np.flatnonzero(at_edge(found, frame)) if index not in matched)
    return replace(matches, found=matches.found - odd)


@dataclass
class KindMatches:
    """Matches of all test images of one kind."""

    kind: Kind
    diameter_px: float
    """Median diameter of the annotated cells."""
    plain: list[FrameMatches] = field(default_factory=list)
    inner: list[FrameMatches] = field(default_factory=list)
    """Matches without false cells at the edge."""
    told: list[FrameMatches] = field(default_factory=list)
    """Matches of answers for which the diameter was told."""
    dice: list[float] = field(default_factory=list)


def row_of(name: str, kinds: Sequence[KindMatches]) -> KindRow:
    """Return the figures of one or several kinds together."""
    plain = quality([match for kind in kinds for match in kind.plain])
    dice = [value for kind in kinds for value in kind.dice]
    return KindRow(
        kind=name,
        images=sum(len(kind.plain) for kind in kinds),
        annotated=sum(match.annotated for kind in kinds for match in kind.plain),
        found=sum(match.found for kind in kinds for match in kind.plain),
        recall=plain.recall,
        precision=plain.precision,
        f1=plain.f1,
        iou=plain.iou,
        f1_inside=quality([match for kind in kinds for match in kind.inner]).f1,
        f1_told=quality([match for kind in kinds for match in kind.told]).f1,
        dice=float(np.mean(dice)) if dice else None,
        diameter_px=kinds[0].diameter_px if len(kinds) == 1 else None,
    )


def measure_kind(client: Client, kind: Kind, data: Path, foreground: bool) -> KindMatches:
    """Segment the test images of one kind and match the cells."""
    dataset, _ = read_data([f"{data / kind.folder}@{kind.names}"], one_class=True)
    result = KindMatches(kind, measure_scale(dataset).cell_diameter_px)
    for frame in dataset.frames:
        image = frame.read()
        found = client.segment(image, CELLS)
        matches = match_cells(found, frame.cells)
        result.plain.append(matches)
        result.inner.append(without_edge(matches, found, frame))
        told = client.segment(image, CELLS, cell_diameter_px=result.diameter_px)
        result.told.append(match_cells(told, frame.cells))
        if foreground:
            mask = client.foreground(image, FOREGROUND).mask
            result.dice.append(dice(mask, annotated_pixels(frame)))
    return result


def annotated_pixels(frame: AnnotatedFrame) -> NDArray[np.bool_]:
    """Return the pixels of all annotated cells: bool ``[H, W]``."""
    pixels = np.zeros((frame.height, frame.width), bool)
    for cell in frame.cells:
        height, width = cell.mask.shape
        pixels[cell.y : cell.y + height, cell.x : cell.x + width] |= cell.mask
    return pixels


def dice(mask: NDArray[Any], truth: NDArray[np.bool_]) -> float:
    """Return the Dice coefficient of two masks ``[H, W]``; 1 if both are empty."""
    both, either = np.count_nonzero(mask & truth), np.count_nonzero(mask) + truth.sum()
    return float(2 * both / either) if either else 1.0


def measure(client: Client, data: Path) -> GeneralResult:
    """Measure all kinds of images, and the empty frames."""
    foreground = FOREGROUND in client.pipelines()
    kinds = [
        measure_kind(client, kind, data, foreground)
        for kind in track(KINDS, "segmenting the test images", transient=True)
    ]
    nuclei = [each for each in kinds if each.kind.folder == NUCLEI]
    card = client.card(CELLS)
    frames = list(track(empty_frames(EMPTY_SEED, data), "making empty frames", transient=True))
    return GeneralResult(
        **made_by("general.measure"),
        threshold=SCORE_THRESHOLD if card.threshold is None else card.threshold,
        kinds=(
            *(row_of(kind.kind.name, [kind]) for kind in kinds),
            row_of("dsb2018, all three", nuclei),
        ),
        empty=tuple(measure_empty(ServedPipeline(client, CELLS, card), frames)),
        foreground=tuple(measure_foreground(client, FOREGROUND, frames) if foreground else ()),
    )


@click.command(help=__doc__, context_settings={"show_default": True})
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    required=True,
    help="Folder with dsb2018, bccd and t98g.",
)
@repository_option
@json_option
@markdown_option
def main(data: Path, model_repository: Path, json_file: Path, markdown: Path | None) -> None:
    """Measure; the module's docstring is the help."""
    with EmbeddedServer(model_repository) as server, Client(server.url, timeout=TIMEOUT) as client:
        result = measure(client, data)
    write_result(result, general_page(result), json_file, markdown)


if __name__ == "__main__":
    main()
