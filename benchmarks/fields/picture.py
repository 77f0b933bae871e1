"""Draws the result of `benchmarks.fields` as one picture: size, scale, and empty frames."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from matplotlib.axes import Axes
from matplotlib.figure import Figure  # without pyplot: no window, no global state

from benchmarks.fields.result import EmptyRow, FactorRow, FieldsResult, SizeRow

Row = TypeVar("Row", SizeRow, FactorRow, EmptyRow)


def save_picture(result: FieldsResult, file: Path) -> None:
    """Draw F1 against size and scale of a frame, and false cells by kind of empty frame.

    Raises:
        OSError: the file cannot be written.
    """
    figure = Figure(figsize=(15, 4.5), layout="constrained")
    size, scale, empty = figure.subplots(1, 3)
    _draw_sizes(size, result.sizes)
    _draw_factors(scale, result.factors)
    _draw_empty(empty, result.empty)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)


def _of_pipelines(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Group rows by pipeline, in the order of its first row."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.pipeline, []).append(row)
    return groups


def _draw_sizes(axes: Axes, rows: Iterable[SizeRow]) -> None:
    axes.set(title="Size of the frame", xlabel="training fields in the frame", ylabel="F1")
    axes.set_xscale("log")
    fields = sorted({row.fields for row in rows})
    for number, (name, own) in enumerate(_of_pipelines(rows).items()):
        places, colour = [row.fields for row in own], f"C{number}"
        axes.plot(places, [row.whole.f1 for row in own], "o-", color=colour, label=name)
        cut = f"{name}, cut into fields"
        axes.plot(places, [row.cut.f1 for row in own], "x:", color=colour, label=cut)
    axes.set_xticks(fields, map(str, fields), minor=False)
    axes.minorticks_off()
    axes.set_ylim(min(0.9, axes.get_ylim()[0]), 1.005)
    _explain(axes)


def _draw_factors(axes: Axes, rows: Iterable[FactorRow]) -> None:
    axes.set(title="Scale of the frame", xlabel="resized by", ylabel="F1", ylim=(0, 1.02))
    told = list(dict.fromkeys(row.told for row in rows))
    styles = dict(zip(told, (":", "-.", "-", "--"), strict=False))
    for number, (name, own) in enumerate(_of_pipelines(rows).items()):
        for what, style in styles.items():
            line = [row for row in own if row.told == what]
            points = [row.factor for row in line], [row.figures.f1 for row in line]
            label = f"{name}, told: {what}"
            axes.plot(*points, style, marker="o", color=f"C{number}", label=label)
    _explain(axes)


def _draw_empty(axes: Axes, rows: Iterable[EmptyRow]) -> None:
    axes.set(title="Frames without cells", xlabel="false cells per frame")
    pipelines = _of_pipelines(rows)
    height = 0.8 / max(1, len(pipelines))
    for number, (name, own) in enumerate(pipelines.items()):
        places = [place + number * height for place in range(len(own))]
        axes.barh(places, [row.per_frame for row in own], height, label=name)
        axes.set_yticks(range(len(own)), [row.kind for row in own])
    axes.invert_yaxis()
    _explain(axes)


def _explain(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small")
