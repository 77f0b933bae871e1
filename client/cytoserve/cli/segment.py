"""``cytoserve segment``: find and save the cells or the foreground of many images."""

from __future__ import annotations

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cytoserve.cli.exit_codes import EPILOG, ExitCode
from cytoserve.cli.image_run import Job
from cytoserve.cli.inputs import find_inputs
from cytoserve.cli.job_options import job_options
from cytoserve.cli.job_run import JobRun, end, open_console
from cytoserve.cli.options import Server


@click.command(epilog=EPILOG)
@click.argument("paths", nargs=-1, required=True)
@job_options(wait_for_server=60.0)
def segment(paths: tuple[str, ...], job: Job, server: Server, version: int | None) -> None:
    """Find the cells or the foreground in the images at PATHS: files, folders and globs.

    Folders are searched with all their subfolders for images: PNG, JPEG, BMP, TIFF, OME-Zarr, and
    files of microscopes, some of which need an extra. Results keep the location of their image
    below the folder that all PATHS share: a/x.png becomes OUT/a/x_png_labels.tif and so on.

    A file of several planes has a result for each: a/x.tif becomes OUT/a/x_tif_t003_z02_labels.tif
    and so on. Its first channel is taken, and every z, time and position, unless options say
    otherwise. Numbers count from 0.

    A run ends with its warnings, each once with the number of images that it concerns, and with a
    line of what was found and how quickly. OUT/run.json has the warnings of every image.

    If an image fails, the failure is recorded in OUT/run.json and the run continues. Repeat the
    same command to resume: it skips finished images unless image, models or settings changed.
    """
    inputs = find_inputs(paths, job.out)
    if not inputs:
        end(ExitCode.NOTHING_TO_DO, f"No image found at {', '.join(paths)}: check the paths.")
    console = open_console()
    with server.client(job.timeout, version) as client:
        run = JobRun.open(job, client, server.url, console.print)
        try:
            with _progress(console) as progress:
                for given in progress.track(inputs, description="images"):
                    for _ in run.process(given):
                        pass
        finally:  # also when interrupted
            run.close()
    end(*run.outcome())


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
