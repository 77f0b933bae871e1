"""Draws the plots of the report with matplotlib."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
"""Markers of the lines, so that lines differ in more than colour."""

HIGHLIGHT, GREY = "C0", "0.6"

STYLE: Any = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "0.9",
    "svg.hashsalt": "the same plot is the same file",
}


@dataclass(frozen=True)
class Plot:
    """A picture with a title."""

    title: str
    svg: bytes
    """Content of an SVG file."""


@dataclass(frozen=True)
class Limit:
    """A line that marks a bound."""

    value: float
    label: str


@dataclass(frozen=True)
class Axis:
    """An axis of a plot."""

    label: str
    """Quantity and unit."""
    log: bool = False


def value_text(value: float) -> str:
    """Return a figure with three digits, or with all digits before the decimal point."""
    return f"{value:,.{2 if abs(value) < 10 else 1 if abs(value) < 100 else 0}f}"


def bars(
    title: str,
    axis: Axis,
    values: Mapping[str, float],
    limit: Limit | None = None,
    highlighted: str | None = None,
) -> Plot:
    """Draw a bar per name, with its value; if ``highlighted`` is given, other bars are grey."""
    with _figure(len(values)) as (figure, axes):
        colours = [HIGHLIGHT if highlighted in (None, name) else GREY for name in values]
        drawn = axes.barh(list(values), list(values.values()), color=colours)
        axes.bar_label(drawn, [value_text(value) for value in values.values()], padding=3)
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.set_xlabel(axis.label)
        if limit:
            axes.axvline(limit.value, color="C3", linestyle="--", label=limit.label)
            axes.legend(loc="lower right")
        return _plot(title, figure)


def stacked_bars(
    title: str, axis: Axis, values: Mapping[str, Mapping[str, float]], unit: str
) -> Plot:
    """Draw a bar per name: its parts as shares of their sum in percent, and the sum in ``unit``."""
    parts = list(dict.fromkeys(itertools.chain.from_iterable(values.values())))
    totals = {name: sum(own.values()) for name, own in values.items()}
    with _figure(len(values)) as (figure, axes):
        begin = [0.0] * len(values)
        for part in parts:
            shares = [
                100 * own.get(part, 0.0) / totals[name] if totals[name] else 0.0
                for name, own in values.items()
            ]
            axes.barh(list(values), shares, left=begin, label=part)
            begin = [a + b for a, b in zip(begin, shares, strict=True)]
        for row, total in enumerate(totals.values()):
            axes.text(101, row, f"{value_text(total)} {unit}", va="center")
        axes.invert_yaxis()
        axes.set_xlim(0, 120)
        axes.set_xlabel(axis.label)
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=max(1, len(parts)))
        return _plot(title, figure)


def lines(
    title: str,
    x: Axis,
    y: Axis,
    series: Mapping[str, Sequence[tuple[float, float]]],
    limits: Sequence[Limit] = (),
) -> Plot:
    """Draw a line with markers per name through its points (x, y); ``limits`` are horizontal.

    A logarithmic x axis includes 0. A logarithmic y axis leaves points at 0 out.
    """
    with _figure(6) as (figure, axes):
        for (name, points), marker in zip(series.items(), itertools.cycle(MARKERS), strict=False):
            shown = [(a, b) for a, b in sorted(points) if b > 0 or not y.log]
            if shown:
                axes.plot(*zip(*shown, strict=True), marker=marker, label=name)
        for limit in limits:
            axes.axhline(limit.value, color="C3", linestyle="--", label=limit.label)
        if x.log:
            axes.set_xscale("symlog", linthresh=1)
        axes.set_yscale("log" if y.log else "linear")
        if not y.log:
            axes.set_ylim(bottom=0)
        axes.set_xlabel(x.label)
        axes.set_ylabel(y.label)
        if series or limits:
            axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
        return _plot(title, figure)


@contextmanager
def _figure(rows: int) -> Iterator[tuple[Figure, Axes]]:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 1.5 + 0.4 * rows), layout="constrained")
        yield figure, figure.subplots()


def _plot(title: str, figure: Figure) -> Plot:
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return Plot(title, file.getvalue())
