"""Draws the figures of `benchmarks.fields` in one picture: size, scale, and empty frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure  # without pyplot: no window, no global state

from benchmarks.fields.views import NOTHING
from benchmarks.harness.results import Row, rows_by


def save_picture(result: Mapping[str, Any], file: Path) -> None:
    """Draw F1 against size and scale of a frame, and false cells by kind of empty frame.

    Raises:
        OSError: the file cannot be written.
    """
    figure = Figure(figsize=(15, 4.5), layout="constrained")
    size, scale, empty = figure.subplots(1, 3)
    _draw_sizes(size, result["sizes"])
    _draw_factors(scale, result["factors"])
    _draw_false_cells(empty, result["empty"])
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)


def _draw_sizes(axes: Axes, rows: Sequence[Row]) -> None:
    axes.set(title="Size of the frame", xlabel="fields of the frame", ylabel="F1")
    for number, (name, own) in enumerate(rows_by("pipeline", rows).items()):
        fields = [row["fields"] for row in own]
        axes.plot(fields, [row["f1"] for row in own], "o-", color=f"C{number}", label=name)
        cut = [row["cut_f1"] for row in own]
        axes.plot(fields, cut, "x:", color=f"C{number}", label=f"{name}, cut into fields")
    if rows:
        axes.set_xscale("log")
        axes.set_xticks(fields, map(str, fields), minor=False)
        axes.minorticks_off()
        axes.set_ylim(min(0.9, axes.get_ylim()[0]), 1.005)
        axes.legend()


def _draw_factors(axes: Axes, rows: Sequence[Row]) -> None:
    axes.set(title="Scale of the frame", xlabel="resized by", ylabel="F1", ylim=(0, 1.02))
    styles = dict(zip(rows_by("told", rows), (":", "-.", "-", "--"), strict=False))
    for number, (name, own) in enumerate(rows_by("pipeline", rows).items()):
        for told, line in rows_by("told", own).items():
            label = f"{name}, {told} told" if told != NOTHING else f"{name}, not told"
            points = [row["factor"] for row in line], [row["f1"] for row in line]
            axes.plot(*points, styles[told], marker="o", color=f"C{number}", label=label)
    if rows:
        axes.legend(fontsize="small")


def _draw_false_cells(axes: Axes, rows: Sequence[Row]) -> None:
    axes.set(title="Frames without cells", xlabel="false cells per frame")
    pipelines = rows_by("pipeline", rows)
    height = 0.8 / max(1, len(pipelines))
    for number, (name, own) in enumerate(pipelines.items()):
        places = [place + number * height for place in range(len(own))]
        axes.barh(places, [row["per_frame"] for row in own], height, label=name)
        axes.set_yticks(range(len(own)), [row["kind"] for row in own])
    if rows:
        axes.invert_yaxis()
        axes.legend()
