"""The options of commands that run one job over many images: ``segment`` and ``watch``."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import click

from cytoserve import contract
from cytoserve.cli.image_run import Job
from cytoserve.cli.options import (
    Command,
    ScaleType,
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
from cytoserve.cli.plane_options import plane_options
from cytoserve.planes import PlaneChoice
from cytoserve.settings import DEFAULT_PIPELINE, ForegroundSettings, Settings

_OPTIONS: tuple[Callable[..., Any], ...] = (
    click.option(
        "--pipeline",
        type=click.Choice(list(contract.PIPELINES)),
        default=DEFAULT_PIPELINE,
        show_default=True,
        help="Which pipeline to ask.",
    ),
    out_option,
    click.option(
        "--save",
        default=None,
        callback=parse_save,
        metavar="KINDS",
        help=f"What to write, with commas. {kinds_help()}",
    ),
    server_options,
    version_option,
    click.option(
        "--score-threshold",
        type=float,
        default=None,
        show_default="chosen by the model's training",
        help=f"Drop detections that score below, 0 to 1. {takers_help('score_threshold')}",
    ),
    click.option(
        "--overlap-threshold",
        type=float,
        default=contract.OVERLAP_THRESHOLD,
        show_default=True,
        help="Of two cells of which one covers a larger share of the smaller one's mask, keep one, "
        "0 to 1. " + takers_help("overlap_threshold"),
    ),
    click.option(
        "--max-cells",
        type=int,
        default=contract.DEFAULT_MAX_CELLS,
        show_default=True,
        help=f"Most cells of one image; reaching it is reported. {takers_help('max_cells')}",
    ),
    click.option(
        "--scale",
        type=ScaleType(),
        default=None,
        help="Factor that brings the images to the scale of the training's, such as 2 for cells of "
        "half the size. 1 leaves them as they are, whatever pixel size a TIFF tells. `fit` brings "
        "each whole image into the network's field, for a few large cells. " + takers_help("scale"),
    ),
    click.option(
        "--pixel-size",
        "pixel_size_um",
        type=float,
        default=None,
        metavar="UM",
        help="Side of a pixel of the images in micrometres. It stands in tables and other results, "
        "draws a scale bar on overlays, and brings the images to the training's scale, in place of "
        "--scale, for pipelines that have it. Default: what an OME-TIFF or ImageJ TIFF tells, "
        "which sets the scale only if the model knows its own.",
    ),
    click.option(
        "--cell-diameter",
        "cell_diameter_px",
        type=float,
        default=None,
        metavar="PX",
        help="Usual diameter of the cells in pixels of the images, compared with the training's, "
        f"in place of --scale. {takers_help('cell_diameter_px')}",
    ),
    click.option(
        "--probability-threshold",
        type=float,
        default=None,
        show_default="chosen by the model's training",
        help="Pixels of at least this probability are foreground, 0 to 1. "
        + takers_help("probability_threshold"),
    ),
    click.option(
        "--white-level",
        type=float,
        default=None,
        help="The image's value for white, such as 4095 of a 12-bit camera; by default 255 for 8 "
        f"bits, 65535 for 16, 1 for float. {takers_help('white_level')}",
    ),
    *plane_options,
    numbers_option,
    timeout_option,
)


@dataclass(frozen=True)
class _Given:
    """The values of the options above, as click passes them."""

    pipeline: str
    out: Path
    save: tuple[str, ...] | None
    score_threshold: float | None
    overlap_threshold: float
    max_cells: int
    scale: float | str | None
    pixel_size_um: float | None
    cell_diameter_px: float | None
    probability_threshold: float | None
    white_level: float | None
    channel: tuple[str, ...] | None
    z: tuple[str, ...] | None
    time: tuple[str, ...] | None
    position: tuple[str, ...] | None
    numbers: bool
    timeout: float
    wait_for_server: float

    def job(self, context: click.Context) -> Job:
        """Check the options against the pipeline and each other; return the job."""
        asked = contract.PIPELINES[self.pipeline]
        if asked.is_prompted:
            raise click.UsageError(
                f"{context.command.name} asks pipelines that need no prompts; given: --pipeline "
                f"{asked.name}, which takes boxes and points. Call `cytoserve prompt IMAGE --box "
                "X0,Y0,X1,Y1`."
            )
        check_options(context, asked)
        kinds = check_save(self.save, asked)
        check_overlay_options(asked, kinds, self.numbers, self.pixel_size_um)
        return Job(
            self.pipeline,
            self._settings(asked),
            kinds,
            self.numbers,
            self.pixel_size_um,
            self.out,
            self.timeout,
            self.wait_for_server,
            PlaneChoice(self.channel, self.z, self.time, self.position),
        )

    def _settings(self, asked: contract.Pipeline) -> Settings | ForegroundSettings:
        if not asked.is_semantic:
            return Settings(
                self.score_threshold,
                self.overlap_threshold,
                self.max_cells,
                self.scale,
                self.pixel_size_um,
                self.cell_diameter_px,
            )
        settings = ForegroundSettings(self.probability_threshold, self.white_level)
        settings.check_for(asked)
        return settings


def job_options(wait_for_server: float) -> Callable[[Command], Command]:
    """Return a decorator that adds the options of a job.

    The command gets them as ``job``, ``server`` and ``version``.

    Args:
        wait_for_server: default of ``--wait-for-server`` in seconds; infinity waits without limit.
    """
    waiting = click.option(
        "--wait-for-server",
        type=click.FloatRange(min=0),
        default=wait_for_server,
        show_default="no limit" if math.isinf(wait_for_server) else True,
        metavar="SECONDS",
        help="How long to wait for a server that stopped answering.",
    )
    names = _Given.__dataclass_fields__

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def with_job(**options: Any) -> Any:
            given = _Given(**{name: options.pop(name) for name in names})
            return command(job=given.job(click.get_current_context()), **options)

        decorated: Any = with_job
        for option in reversed((*_OPTIONS, waiting)):
            decorated = option(decorated)
        return cast(Command, decorated)

    return decorate
