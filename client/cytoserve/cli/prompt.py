"""``cytoserve prompt``: segment the cells in one image that boxes and points mark.

The prompts are read from the command line or from a file.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from cytoserve import contract
from cytoserve.cli.exit_codes import EPILOG
from cytoserve.cli.image_run import write_results
from cytoserve.cli.inputs import Input
from cytoserve.cli.options import (
    DEFAULT_SAVE,
    Server,
    check_overlay_options,
    check_save,
    numbers_option,
    out_option,
    parse_save,
    server_options,
    timeout_option,
    version_option,
)
from cytoserve.cli.run_record import DONE, open_record, run_facts
from cytoserve.errors import InvalidPrompts
from cytoserve.frames import request_limits
from cytoserve.images import read_frame, read_pixel_size
from cytoserve.outputs import CELLS_OUTPUTS
from cytoserve.prompts import Prompts
from cytoserve.settings import DEFAULT_PROMPT_PIPELINE, find_prompted_pipeline

LABEL_NAMES = {"fg": contract.POINT_LABELS["foreground"], "bg": contract.POINT_LABELS["background"]}
"""Name of a point's label -> its value; CSV files may also contain 1 and 0."""

JSON_KEYS = ("box", "points", "point_labels")
"""Keys of a cell in a JSON file: a list of objects, each with a box, or points, or both."""

BOX_COLUMNS = ("x0", "y0", "x1", "y1")
"""Columns of a CSV file of boxes: one row per cell."""

POINT_COLUMNS = ("cell", "x", "y", "label")
"""Columns of a CSV file of points: rows with the same ``cell`` are the points of one cell. Cells
are ordered by their first row, and ``label`` may be left out."""

_EXAMPLE = """\b
Example, of one cell by a box and two clicks, and of many cells by a file:
  cytoserve prompt x.png --out out --box 10,12,60,70 --point 35,41 --point 58,20,bg
  cytoserve prompt x.png --out out --prompts cells.json

\b
cells.json, a list with one object a cell:
  [{"box": [10, 12, 60, 70]},
   {"points": [[99, 40], [120, 44]], "point_labels": [1, 0]}]
cells.csv, one box a row, or one point a row:
  x0,y0,x1,y1       cell,x,y,label
  10,12,60,70       1,99,40,fg

"""


@click.command(epilog=_EXAMPLE + EPILOG)
@click.argument("image", type=click.Path(path_type=Path))
@click.option(
    "--box",
    "boxes",
    multiple=True,
    metavar="X0,Y0,X1,Y1",
    help="A box around one cell, in pixels; may be given several times.",
)
@click.option(
    "--point",
    "points",
    multiple=True,
    metavar="X,Y[,fg|bg]",
    help="A point in the cell, or with bg a point that is not; several are of one cell, and with "
    "a --box of the cell in it.",
)
@click.option(
    "--prompts",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Boxes and points of any number of cells, .json or .csv; in place of --box and --point.",
)
@click.option(
    "--pipeline",
    type=click.Choice([name for name, each in contract.PIPELINES.items() if each.is_prompted]),
    default=DEFAULT_PROMPT_PIPELINE,
    show_default=True,
    help="Which pipeline to ask.",
)
@out_option
@click.option(
    "--save",
    default=None,
    callback=parse_save,
    metavar="KINDS",
    help=f"What to write, with commas: {', '.join(CELLS_OUTPUTS)}; by default "
    f"{','.join(DEFAULT_SAVE[False])}.",
)
@numbers_option
@click.option(
    "--pixel-size",
    "pixel_size_um",
    type=float,
    default=None,
    metavar="UM",
    help="Side of a pixel of the image in micrometres, for tables, other results and the overlay's "
    "scale bar. Default: what an OME-TIFF or ImageJ TIFF tells.",
)
@server_options
@version_option
@timeout_option
def prompt(
    image: Path,
    boxes: tuple[str, ...],
    points: tuple[str, ...],
    file: Path | None,
    pipeline: str,
    out: Path,
    save: tuple[str, ...] | None,
    numbers: bool,
    pixel_size_um: float | None,
    server: Server,
    version: int | None,
    timeout: float,
) -> None:
    """Segment the cells in IMAGE that boxes and points mark.

    The i-th prompt is cell i of the label image and row i of the table. The server caches its
    computations on an image for some time, so further prompts on the same image are quick.
    """
    asked = find_prompted_pipeline(pipeline)
    kinds = check_save(save, asked)
    check_overlay_options(asked, kinds, numbers, pixel_size_um)
    prompts = _prompts(boxes, points, file)
    given = Input(image.absolute(), image.name)
    frame = read_frame(image, request_limits(asked))
    if pixel_size_um is None:
        pixel_size_um = read_pixel_size(image)
    prompts.check_for((frame.shape[0], frame.shape[1]))
    with server.client(timeout, version) as client:
        begun = time.time()
        run = run_facts(
            client, server.url, pipeline, {"prompts": prompts.entries()}, kinds, timeout
        )
        record = open_record(out, run)
        cells = client.prompt(frame, prompts, pipeline)
        models = client.models(pipeline)
    written = write_results(out, given, kinds, frame, cells, numbers, pixel_size_um)
    entry = {
        "source": str(given.path),
        "job": {"pipeline": pipeline, **run["settings"]},
        "status": DONE,
        "models": models,
        "outputs": written,
        "cells": len(cells),
        "qualities": [round(float(quality), 4) for quality in cells.scores],
    }
    record.put(given.key, entry)
    record.save(run | {"models": models, "seconds": round(time.time() - begun, 3)})
    click.echo(f"{len(cells)} cells. Recorded in {record.path}.")


def _prompts(boxes: tuple[str, ...], points: tuple[str, ...], file: Path | None) -> Prompts:
    if file is None:
        return prompts_of_options(boxes, points)
    if boxes or points:
        raise click.UsageError(
            "Prompts come from --prompts, or from --box and --point; given: both. Write them all "
            "into the file."
        )
    return read_prompts(file)


def parse_numbers(text: str, count: int, form: str) -> list[float]:
    """Read ``10,12,60,70``.

    Raises:
        InvalidPrompts: these are not ``count`` numbers; the message shows their ``form``.
    """
    try:
        numbers = [float(part) for part in text.split(",")]
        if len(numbers) != count:
            raise ValueError(f"{len(numbers)} numbers")
    except ValueError as error:
        raise InvalidPrompts(
            f"Write it as {form}, frame pixels without spaces; given: {text!r}. Put commas between "
            f"its {count} numbers."
        ) from error
    return numbers


def parse_point(text: str) -> tuple[list[float], int]:
    """Read ``35,41`` or ``35,41,bg``: (x, y) and the label.

    Raises:
        InvalidPrompts: the text has another form.
    """
    place, comma, label = text.rpartition(",")
    if comma and label.strip() in LABEL_NAMES:
        return parse_numbers(place, 2, "x,y,fg or x,y,bg"), LABEL_NAMES[label.strip()]
    return parse_numbers(text, 2, "x,y or x,y,fg or x,y,bg"), LABEL_NAMES["fg"]


def prompts_of_options(boxes: Iterable[str], points: Iterable[str]) -> Prompts:
    """Return the prompts of ``--box`` and ``--point``.

    Every box is a cell. The points together are one cell: that of the box, if there is one.

    Raises:
        InvalidPrompts: there are no prompts, or points together with several boxes.
    """
    corners = [parse_numbers(text, 4, ",".join(BOX_COLUMNS)) for text in boxes]
    clicks = [parse_point(text) for text in points]
    if not clicks:
        return Prompts(boxes=corners)
    if len(corners) > 1:
        raise InvalidPrompts(
            f"Points on the command line are of one cell; given: {len(clicks)} points and "
            f"{len(corners)} boxes. Write more cells into a file, and pass it as --prompts."
        )
    places, labels = [place for place, _ in clicks], [label for _, label in clicks]
    return Prompts(corners or [None], [places], [labels])


def read_prompts(path: Path) -> Prompts:
    """Read a ``.json`` or ``.csv`` file of prompts; see ``JSON_KEYS`` and ``*_COLUMNS``.

    Raises:
        InvalidPrompts: the file has another ending, cannot be read, or has another form.
    """
    readers = {".json": _read_json, ".csv": _read_csv}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InvalidPrompts(
            f"Prompts are read from {' or '.join(readers)} files; given: {path}. Save them as one "
            "of these."
        )
    try:
        return reader(path.read_text("utf-8-sig"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise InvalidPrompts(
            f"A file of prompts can be read as {path.suffix[1:].upper()}; given: {path}: {error}. "
            "Check its path and what is in it."
        ) from error


def _read_json(text: str) -> Prompts:
    cells = json.loads(text)
    if not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells):
        raise InvalidPrompts(
            "A JSON file of prompts is a list of objects, one a cell; given: "
            f'{text.strip()[:40]!r}. Write [{{"box": [x0, y0, x1, y1]}}, ...].'
        )
    for row, cell in enumerate(cells):
        unknown = sorted(set(cell) - set(JSON_KEYS))
        if unknown:
            raise InvalidPrompts(
                f"A cell of a JSON file has {', '.join(JSON_KEYS)}; given: {unknown[0]!r}, in row "
                f"{row}. Rename it, or leave it out."
            )
    boxes, points, labels = ([cell.get(key) for cell in cells] for key in JSON_KEYS)
    return Prompts(boxes, points, labels)


def _read_csv(text: str) -> Prompts:
    reader = csv.DictReader(text.splitlines(), strict=True)
    columns, rows = tuple(reader.fieldnames or ()), list(reader)
    if set(BOX_COLUMNS) <= set(columns):
        return Prompts(boxes=[_numbers(row, BOX_COLUMNS, line) for line, row in enumerate(rows)])
    if not set(POINT_COLUMNS[:-1]) <= set(columns):
        raise InvalidPrompts(
            f"A CSV file of prompts has the columns {','.join(BOX_COLUMNS)} or "
            f"{','.join(POINT_COLUMNS)}; given: {','.join(columns) or 'none'}. Add a first line "
            "with their names."
        )
    cells: dict[str, tuple[list[Any], list[Any]]] = {}
    for line, row in enumerate(rows):
        points, labels = cells.setdefault(row["cell"], ([], []))
        points.append(_numbers(row, ("x", "y"), line))
        labels.append(_label(row.get("label") or "fg", line))
    return Prompts(
        points=[p for p, _ in cells.values()], point_labels=[k for _, k in cells.values()]
    )


def _numbers(row: Mapping[str, str | None], columns: Iterable[str], line: int) -> list[float]:
    try:
        return [float(row[column] or "") for column in columns]
    except ValueError as error:
        raise InvalidPrompts(
            f"{', '.join(columns)} are numbers, in frame pixels; given: {error}, in row {line}. "
            "Fill it in, or leave the row out."
        ) from error


def _label(text: str, line: int) -> int:
    known = {**LABEL_NAMES, **{str(label): label for label in LABEL_NAMES.values()}}
    if text.strip() not in known:
        raise InvalidPrompts(
            f"A point's label is one of {', '.join(known)}; given: {text!r}, in row {line}. Use "
            "one of them."
        )
    return known[text.strip()]
