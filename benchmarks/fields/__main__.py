"""Measures whether size, place and scale of a frame change the answer, and counts false cells.

\b
    make demo
    python -m server --model-repository runs/demo/model_repository
    python -m benchmarks.fields --url localhost:8001 --data data --json fields.json

A running server segments rendered scenes, whose cells are as large and as dense as in the frames of
`make demo`. The models must therefore be those of the demo, or trained on similar frames. For each
pipeline that finds cells, this measures:

\b
    size      scenes of 1 to 36 training fields, whole and cut into fields,
              and a field alone and in the corner of a larger frame
    place     cells found as the camera moves by some pixels
    scale     frames resized by 0.5 to 2, with and without a stated scale
    empty     cells found in frames without any: rendered, constant, noise,
              gradients, debris, and background of the real images in --data
    outlines  cells doubled, cut off by their boxes, or away from the truth
    time      seconds per frame of 2048 x 2048 pixels, and per tile

A pipeline that finds foreground segments the empty frames only, and only if --pipeline names it.
Thresholds are those of the card. Frames with a false cell are drawn beside --picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
from rich.progress import track

from benchmarks.fields.empty_frames import COUNT, EmptyFrame, empty_frames, save_contact_sheet
from benchmarks.fields.false_cells import measure_false_cells, measure_false_foreground
from benchmarks.fields.outlines import outline_figures
from benchmarks.fields.pictures import save_picture
from benchmarks.fields.pipelines import Row, ServedPipeline, measure_seconds
from benchmarks.fields.tables import QUESTIONS, fields_table
from benchmarks.fields.views import measure_corners, measure_factors, measure_offsets, measure_sizes
from benchmarks.harness.options import json_option, markdown_option
from benchmarks.harness.results import new_result, write_result
from cytoserve import Client, CytoserveError
from cytoserve.contract import PIPELINES, SCORE_THRESHOLD
from cytoserve.settings import DEFAULT_URL
from training.datasets.annotated import AnnotationError

TIMEOUT = 600.0
"""Seconds for one frame."""

SEED = 0
"""Seed of the empty frames."""


@dataclass(frozen=True)
class Load:
    """Number of frames and requests that are measured."""

    sizes: Mapping[int, int] = field(default_factory=lambda: {1: 36, 4: 9, 10: 4, 16: 2, 36: 1})
    """Number of training fields per scene -> number of scenes of that size."""
    corner_scenes: int = 4
    offset_scenes: int = 2
    offset_side: int = 2048
    """Side in pixels of the scenes that are shifted."""
    factor_scenes: int = 4
    factor_side: int = 1280
    """Side in pixels of the scenes before they are resized."""
    empty: int = COUNT
    """Number of frames without cells."""
    repeats: int = 5
    """Number of timed requests per size."""


QUICK = Load(
    sizes={1: 4, 4: 1, 10: 1},
    corner_scenes=1,
    offset_scenes=1,
    offset_side=1024,
    factor_scenes=1,
    factor_side=640,
    empty=30,
    repeats=1,
)


@dataclass(frozen=True)
class Measured:
    """All figures, and frames to look at."""

    rows: dict[str, list[Row]]
    """Question of `QUESTIONS` -> the rows that answer it."""
    thresholds: dict[str, float]
    """Score threshold of each pipeline."""
    false_cells: dict[str, list[EmptyFrame]]
    """Pipeline -> frames with false cells, drawn with their outlines."""


def measure(client: Client, pipelines: Sequence[str], data: Path | None, load: Load) -> Measured:
    """Measure every pipeline; see the module's docstring.

    Args:
        client: client of a server that serves them.
        pipelines: instance and semantic pipelines.
        data: folder of real images, see `benchmarks.fields.empty_frames.empty_frames`.
        load: number of frames and requests.
    """
    measured = Measured({name: [] for name in QUESTIONS}, {}, {})
    empty = list(empty_frames(SEED, data, load.empty))
    for name in track(pipelines, "measuring", transient=True):
        if PIPELINES[name].is_semantic:
            measured.rows["foreground"] += measure_false_foreground(client, name, empty)
        else:
            _measure_instances(
                ServedPipeline(client, name, client.card(name)), empty, load, measured
            )
    return measured


def _measure_instances(
    pipeline: ServedPipeline, empty: Sequence[EmptyFrame], load: Load, measured: Measured
) -> None:
    """Add the figures of one pipeline that finds cells."""
    rows, name, threshold = measured.rows, pipeline.name, pipeline.card.threshold
    measured.thresholds[name] = SCORE_THRESHOLD if threshold is None else threshold
    of_sizes, outlines = measure_sizes(pipeline, load.sizes)
    rows["sizes"] += of_sizes
    rows["outlines"].append({"pipeline": name, **asdict(outline_figures(outlines))})
    rows["corners"].append(measure_corners(pipeline, load.corner_scenes))
    rows["offsets"] += measure_offsets(pipeline, load.offset_scenes, load.offset_side)
    rows["factors"] += measure_factors(pipeline, load.factor_scenes, load.factor_side)
    of_empty, measured.false_cells[name] = measure_false_cells(pipeline, empty)
    rows["empty"] += of_empty
    rows["seconds"] += measure_seconds(pipeline, load.repeats)


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


def save_pictures(measured: Measured, result: Mapping[str, Any], file: Path) -> list[Path]:
    """Write the picture and, beside it, the frames with false cells; return all files.

    Raises:
        OSError: a file cannot be written.
    """
    save_picture(result, file)
    files = [file]
    for name, frames in measured.false_cells.items():
        if frames:
            files.append(file.with_name(f"{file.stem}-{name}-false-cells{file.suffix}"))
            save_contact_sheet(frames, files[-1])
    return files


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
    load = QUICK if quick else Load()
    try:
        with Client(url, timeout=TIMEOUT) as client:
            chosen = served_pipelines(client, pipelines)
            measured = measure(client, chosen, data, load)
    except (AnnotationError, CytoserveError) as error:
        raise click.ClickException(str(error)) from error
    result = new_result(
        "fields", load=asdict(load), thresholds=measured.thresholds, **measured.rows
    )
    write_result(result, fields_table(result), json_file, markdown)
    if picture:
        for file in save_pictures(measured, result, picture):
            click.echo(f"Written: {file}")


if __name__ == "__main__":
    main()
