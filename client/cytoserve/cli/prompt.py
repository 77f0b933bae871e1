"""``cytoserve prompt``: segment the cells in one image that boxes and points mark."""

from __future__ import annotations

import time
from pathlib import Path

import click

from cytoserve import contract
from cytoserve.cli.exit_codes import EPILOG
from cytoserve.cli.image_run import write_results
from cytoserve.cli.inputs import Input
from cytoserve.cli.options import numbers_option, out_option, timeout_option, url_option
from cytoserve.cli.pipeline_options import (
    DEFAULT_SAVE,
    check_overlay_options,
    check_save,
    parse_save,
)
from cytoserve.cli.prompt_files import prompts_of_options, read_prompts
from cytoserve.cli.run_record import DONE, open_record, run_facts
from cytoserve.client import Client
from cytoserve.frames import request_limits
from cytoserve.images import read_frame, read_pixel_size
from cytoserve.outputs import CELLS_OUTPUTS
from cytoserve.prompts import Prompts
from cytoserve.settings import DEFAULT_PROMPT_PIPELINE, find_prompted_pipeline

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
    help="Side of a pixel of the image in micrometres, for the overlay's scale bar. Default: what "
    "an OME-TIFF or ImageJ TIFF tells.",
)
@url_option
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
    url: str,
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
    with Client(url, timeout=timeout) as client:
        begun = time.time()
        run = run_facts(client, url, pipeline, {"prompts": prompts.entries()}, kinds, timeout)
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
