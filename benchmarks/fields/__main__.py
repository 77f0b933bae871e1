"""Measures whether size, place and scale of a frame change the answer, and counts false cells.

\b
    make study
    python -m server --model-repository runs/study/model_repository
    python -m benchmarks.fields --url localhost:8001 --data data --json fields.json

A running server segments rendered scenes, whose cells are as large and as dense as in the frames of
`make study`. The models must therefore be those of the study, or trained on similar frames. For
each pipeline that finds cells, this measures:

\b
    size      scenes of 1 to 36 training fields, whole and cut into fields,
              and cells that are found twice at seams
    place     cells found as the camera moves by some pixels
    scale     frames resized by 0.5 to 2, with and without a stated scale
    empty     cells found in frames without any: rendered, constant, noise,
              gradients, debris, and background of the real images in --data

A pipeline that finds foreground segments the empty frames only, and only if --pipeline names it.
Thresholds are those of the card.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
from rich.progress import track

from benchmarks.fields.empty_frames import empty_frames
from benchmarks.fields.picture import save_picture
from benchmarks.fields.result import (
    DoubledRow,
    EmptyRow,
    FactorRow,
    FieldsResult,
    ForegroundRow,
    Load,
    OffsetRow,
    SizeRow,
    fields_page,
)
from benchmarks.fields.views import (
    ServedPipeline,
    measure_empty,
    measure_factors,
    measure_foreground,
    measure_offsets,
    measure_sizes,
)
from benchmarks.harness.options import json_option, markdown_option
from benchmarks.harness.results import made_by, write_result
from cytoserve import Client, CytoserveError
from cytoserve.contract import PIPELINES, SCORE_THRESHOLD
from cytoserve.settings import DEFAULT_URL
from training.datasets.annotated import AnnotationError

TIMEOUT = 600.0
"""Seconds for one frame."""

SEED = 0
"""Seed of the empty frames."""

WHOLE = Load(sizes={1: 36, 4: 9, 10: 4, 16: 2, 36: 1})
QUICK = Load(
    sizes={1: 4, 4: 1, 10: 1},
    offset_scenes=1,
    offset_side=1024,
    factor_scenes=1,
    factor_side=640,
    empty=30,
)


def measure(
    client: Client, pipelines: Sequence[str], data: Path | None, load: Load
) -> FieldsResult:
    """Measure every pipeline; see the module's docstring.

    Args:
        client: client of a server that serves them.
        pipelines: instance and semantic pipelines.
        data: folder of real images, see `benchmarks.fields.empty_frames.empty_frames`.
        load: number of frames.
    """
    thresholds: dict[str, float] = {}
    sizes: list[SizeRow] = []
    doubled: list[DoubledRow] = []
    offsets: list[OffsetRow] = []
    factors: list[FactorRow] = []
    empty: list[EmptyRow] = []
    foreground: list[ForegroundRow] = []
    frames = list(empty_frames(SEED, data, load.empty))
    for name in track(pipelines, "measuring", transient=True):
        if PIPELINES[name].is_semantic:
            foreground += measure_foreground(client, name, frames)
            continue
        pipeline = ServedPipeline(client, name, client.card(name))
        threshold = pipeline.card.threshold
        thresholds[name] = SCORE_THRESHOLD if threshold is None else threshold
        of_sizes, of_doubled = measure_sizes(pipeline, load.sizes)
        sizes += of_sizes
        doubled.append(of_doubled)
        offsets += measure_offsets(pipeline, load.offset_scenes, load.offset_side)
        factors += measure_factors(pipeline, load.factor_scenes, load.factor_side)
        empty += measure_empty(pipeline, frames)
    return FieldsResult(
        **made_by("fields"),
        load=load,
        thresholds=thresholds,
        sizes=tuple(sizes),
        doubled=tuple(doubled),
        offsets=tuple(offsets),
        factors=tuple(factors),
        empty=tuple(empty),
        foreground=tuple(foreground),
    )


def served_pipelines(client: Client, wanted: Sequence[str]) -> list[str]:
    """Return the wanted pipelines, or all that find cells.

    Raises:
        click.ClickException: the server does not serve a wanted pipeline, or serves none.
    """
    served = client.pipelines()
    missing = [name for name in wanted if name not in served]
    chosen = list(wanted) or [name for name in served if PIPELINES[name].is_instance]
    if missing or not chosen:
        raise click.ClickException(
            f"A pipeline must be served to be measured; given: {', '.join(missing) or 'none'}, "
            f"served: {', '.join(served) or 'none'}. Export it with `python -m export "
            f"{(missing or ['yolo'])[0]}`, and start the server on that repository."
        )
    return chosen


@click.command(help=__doc__, context_settings={"show_default": True})
@click.option("--url", default=DEFAULT_URL, help="HOST:PORT of the running server.")
@click.option(
    "--pipeline",
    "pipelines",
    multiple=True,
    type=click.Choice([name for name, each in PIPELINES.items() if not each.is_prompted]),
    help="May be given several times. Default: all served ones that find cells.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder with bccd, t98g or dsb2018, whose background is shown too.",
)
@click.option("--quick", is_flag=True, help="Fewer scenes and frames, for a first look.")
@json_option
@markdown_option
@click.option("--picture", type=click.Path(path_type=Path), help="Also draw the figures, as PNG.")
def main(
    url: str,
    pipelines: Sequence[str],
    data: Path | None,
    quick: bool,
    json_file: Path,
    markdown: Path | None,
    picture: Path | None,
) -> None:
    """Measure; the module's docstring is the help."""
    try:
        with Client(url, timeout=TIMEOUT) as client:
            chosen = served_pipelines(client, pipelines)
            result = measure(client, chosen, data, QUICK if quick else WHOLE)
    except (AnnotationError, CytoserveError) as error:
        raise click.ClickException(str(error)) from error
    write_result(result, fields_page(result), json_file, markdown)
    if picture:
        save_picture(result, picture)
        click.echo(f"Written: {picture}")


if __name__ == "__main__":
    main()
