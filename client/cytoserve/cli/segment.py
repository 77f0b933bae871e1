"""``cytoserve segment``: find and save the cells or the foreground of many images."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cytoserve import contract
from cytoserve.cli.exit_codes import EPILOG, ExitCode
from cytoserve.cli.image_run import ImageRun, Job
from cytoserve.cli.inputs import Input, find_inputs
from cytoserve.cli.options import (
    ScaleType,
    Server,
    check_options,
    check_overlay_options,
    check_save,
    kinds_help,
    numbers_option,
    out_option,
    parse_save,
    server_options,
    takers_help,
    timeout_option,
    version_option,
)
from cytoserve.cli.run_record import DONE, FAILED, STATES, Entry, open_record, run_facts
from cytoserve.cli.run_summary import ASKED_AGAIN, found_no_cell, result_line, run_warnings
from cytoserve.client import Client
from cytoserve.operating_point import scale_factor
from cytoserve.settings import DEFAULT_PIPELINE, ForegroundSettings, Settings


@click.command(epilog=EPILOG)
@click.argument("paths", nargs=-1, required=True)
@click.option(
    "--pipeline",
    type=click.Choice(list(contract.PIPELINES)),
    default=DEFAULT_PIPELINE,
    show_default=True,
    help="Which pipeline to ask.",
)
@out_option
@click.option(
    "--save",
    default=None,
    callback=parse_save,
    metavar="KINDS",
    help=f"What to write, with commas. {kinds_help()}",
)
@server_options
@version_option
@click.option(
    "--score-threshold",
    type=float,
    default=None,
    show_default="chosen by the model's training",
    help=f"Drop detections that score below, 0 to 1. {takers_help('score_threshold')}",
)
@click.option(
    "--overlap-threshold",
    type=float,
    default=contract.OVERLAP_THRESHOLD,
    show_default=True,
    help="Of two cells of which one covers a larger share of the smaller one's mask, keep one, 0 "
    "to 1. " + takers_help("overlap_threshold"),
)
@click.option(
    "--max-cells",
    type=int,
    default=contract.DEFAULT_MAX_CELLS,
    show_default=True,
    help=f"Most cells of one image; reaching it is reported. {takers_help('max_cells')}",
)
@click.option(
    "--scale",
    type=ScaleType(),
    default=None,
    help="Factor that brings the images to the scale of the training's, such as 2 for cells of "
    "half the size. 1 leaves them as they are, whatever pixel size a TIFF tells. `fit` brings each "
    f"whole image into the network's field, for a few large cells. {takers_help('scale')}",
)
@click.option(
    "--pixel-size",
    "pixel_size_um",
    type=float,
    default=None,
    metavar="UM",
    help="Side of a pixel of the images in micrometres. It draws a scale bar on overlays, and "
    "brings the images to the training's scale, in place of --scale; pipelines without --scale "
    "draw the bar only. Default: what an OME-TIFF or ImageJ TIFF tells, which sets the scale only "
    "if the model knows its own.",
)
@click.option(
    "--cell-diameter",
    "cell_diameter_px",
    type=float,
    default=None,
    metavar="PX",
    help="Usual diameter of the cells in pixels of the images, compared with the training's, in "
    f"place of --scale. {takers_help('cell_diameter_px')}",
)
@click.option(
    "--probability-threshold",
    type=float,
    default=None,
    show_default="chosen by the model's training",
    help="Pixels of at least this probability are foreground, 0 to 1. "
    + takers_help("probability_threshold"),
)
@click.option(
    "--white-level",
    type=float,
    default=None,
    help="The image's value for white, such as 4095 of a 12-bit camera; by default 255 for 8 bits, "
    f"65535 for 16, 1 for float. {takers_help('white_level')}",
)
@numbers_option
@timeout_option
@click.option(
    "--wait-for-server",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for a server that stopped answering.",
)
@click.pass_context
def segment(
    context: click.Context,
    paths: tuple[str, ...],
    pipeline: str,
    out: Path,
    save: tuple[str, ...] | None,
    server: Server,
    version: int | None,
    score_threshold: float | None,
    overlap_threshold: float,
    max_cells: int,
    scale: float | str | None,
    pixel_size_um: float | None,
    cell_diameter_px: float | None,
    probability_threshold: float | None,
    white_level: float | None,
    numbers: bool,
    timeout: float,
    wait_for_server: float,
) -> None:
    """Find the cells or the foreground in the images at PATHS: files, folders and globs.

    Folders are searched with all their subfolders for PNG, JPEG, BMP and TIFF images. Results keep
    the location of their image below the folder that all PATHS share: a/x.png becomes
    OUT/a/x_png_labels.tif and so on.

    A run ends with its warnings, each once with the number of images that it concerns, and with a
    line of what was found and how quickly. OUT/run.json has the warnings of every image.

    If an image fails, the failure is recorded in OUT/run.json and the run continues. Repeat the
    same command to resume: it skips finished images unless image, models or settings changed.
    """
    asked = contract.PIPELINES[pipeline]
    if asked.is_prompted:
        raise click.UsageError(
            f"segment asks pipelines that need no prompts; given: --pipeline {pipeline}, which "
            "takes boxes and points. Call `cytoserve prompt IMAGE --box X0,Y0,X1,Y1`."
        )
    check_options(context, asked)
    kinds = check_save(save, asked)
    check_overlay_options(asked, kinds, numbers, pixel_size_um)
    settings: Settings | ForegroundSettings
    if asked.is_semantic:
        settings = ForegroundSettings(probability_threshold, white_level)
        settings.check_for(asked)
    else:
        settings = Settings(
            score_threshold, overlap_threshold, max_cells, scale, pixel_size_um, cell_diameter_px
        )
    inputs = find_inputs(paths, out)
    if not inputs:
        _end(ExitCode.NOTHING_TO_DO, f"No image found at {', '.join(paths)}: check the paths.")
    job = Job(pipeline, settings, kinds, numbers, pixel_size_um, out, timeout, wait_for_server)
    with server.client(timeout, version) as client:
        _end(*_run(job, client, server.url, inputs))


def _run(job: Job, client: Client, url: str, inputs: list[Input]) -> tuple[ExitCode, str]:
    """Process all images; return an exit code and a summary in words."""
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    started = time.time()
    models = client.models(job.pipeline)
    if isinstance(job.settings, Settings):  # refused before the record is started
        scale_factor(job.settings, client.card(job.pipeline))
    facts = run_facts(client, url, job.pipeline, asdict(job.settings), job.save, job.timeout)
    about = facts | {"models": models}
    record = open_record(job.out, about)
    run = ImageRun(job, client, record, models, tell=console.print)
    states: Counter[str] = Counter()
    entries: dict[str, Entry] = {}
    best_score = None
    try:
        with _progress(console) as progress:
            for given in progress.track(inputs, description="images"):
                states[run.process(given)] += 1
                entries[given.key] = record.files[given.key]
        if states[DONE] and not run.stopped and found_no_cell(entries):
            answered = [each for each in inputs if entries[each.key]["status"] == DONE]
            best_score = run.best_score(answered[:ASKED_AGAIN])
    finally:  # also when interrupted
        summary = {state: states[state] for state in STATES}
        seconds, warned = round(time.time() - started, 3), run_warnings(entries, best_score)
        ended = {"seconds": seconds, "summary": summary, "warnings": warned}
        record.save(about | {"models": dict(run.models), **ended})
    for warning in warned:
        console.print(warning)
    counts = ", ".join(f"{number} {state}" for state, number in summary.items() if number)
    words = f"{counts}. Recorded in {record.path}.\n{result_line(entries)}".rstrip()
    if run.stopped:
        return ExitCode.SERVER_FAILED, words
    return (ExitCode.SOME_FAILED if states[FAILED] else ExitCode.DONE), words


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


def _end(code: ExitCode, words: str) -> None:
    click.echo(words, err=code is not ExitCode.DONE)
    raise SystemExit(code)
