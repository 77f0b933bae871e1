"""Command-line options that several benchmarks share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from benchmarks.harness.load import CELL_COUNTS, IMAGE_SIZES
from cytoserve import Client
from cytoserve.contract import PIPELINES, SCORE_THRESHOLD
from server.variants import VARIANTS


class ImageSize(click.ParamType):  # type: ignore[type-arg]  # no class with arguments before 8.3
    """Reads ``640x480``, width and height in pixels, into a tuple."""

    name = "WxH"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Return width and height; a default is already a tuple."""
        if isinstance(value, tuple):
            return value
        sides = str(value).split("x")
        if len(sides) != 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
            self.fail(f"width x height in pixels reads 1024x1024; given: {value}")
        return int(sides[0]), int(sides[1])


repository_option = click.option(
    "--model-repository",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default="model_repository",
)
json_option = click.option(
    "--json", "json_file", type=click.Path(path_type=Path), required=True, help="The figures."
)
markdown_option = click.option(
    "--markdown", type=click.Path(path_type=Path), help="Also write the tables there."
)

pipelines_option = click.option(
    "--pipeline",
    "pipelines",
    multiple=True,
    type=click.Choice(list(PIPELINES)),
    help="May be given several times. Default: all that are exported.",
)
variants_option = click.option(
    "--variant",
    "variants",
    type=click.Choice(list(VARIANTS)),
    multiple=True,
    help="Serve this variant too, as a further contender; may be repeated.",
)
sizes_option = click.option(
    "--size",
    "sizes",
    type=ImageSize(),
    multiple=True,
    default=[f"{width}x{height}" for width, height in IMAGE_SIZES],
    help="Of frames, in pixels; may be given several times.",
)
counts_option = click.option(
    "--cells",
    "counts",
    type=click.IntRange(0),
    multiple=True,
    default=CELL_COUNTS,
    help="Of frames; may be given several times.",
)


def checkpoint_option(name: str, text: str) -> Callable[[Any], Any]:
    """Return the required option ``name``, the folder of the checkpoint that ``text`` describes."""
    path = click.Path(path_type=Path, exists=True, file_okay=False)
    return click.option(name, type=path, required=True, help=f"Checkpoint of {text}.")


score_threshold_option = click.option(
    "--score-threshold",
    type=click.FloatRange(0, 1),
    help="Of all pipelines. Default: the one that each model's training chose.",
)


def score_thresholds(
    client: Client, pipelines: Iterable[str], given: float | None
) -> dict[str, float]:
    """Return pipeline -> ``given``, or the client's default threshold if none is given."""
    return {name: _of_card(client, name) if given is None else given for name in pipelines}


def _of_card(client: Client, pipeline: str) -> float:
    learned = client.card(pipeline).threshold
    return SCORE_THRESHOLD if learned is None else learned


def score_threshold_text(thresholds: Mapping[str, float]) -> str:
    """Return pipeline -> threshold as text; the same for all is named once."""
    values = {f"{value:g}" for value in thresholds.values()}
    if len(values) == 1:
        return values.pop()
    return ", ".join(f"{value:g} (`{name}`)" for name, value in thresholds.items())
