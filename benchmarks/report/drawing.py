"""Plots as SVG that stands in a page: text stays text, and the page's style gives the colours.

Drawn by matplotlib. Every colour is one of `COLOURS`, a stand-in that becomes a CSS variable of
the same name, so that one picture serves a light and a dark page. A plot is `WIDTH` units wide, of
which a phone shows almost one a pixel: its text can be read there.
"""

from __future__ import annotations

import io
import itertools
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

WIDTH = 390
"""Units; the height follows from what is drawn."""

SERIES = tuple(f"series-{number}" for number in range(1, 9))
GREY = SERIES[6]
COLOURS = {
    name: f"#a0b0{number:02x}"
    for number, name in enumerate(("ink", "muted", "grid", "surface", "limit", *SERIES))
}
"""Name of a CSS variable -> the colour that stands for it in matplotlib's drawing."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
"""So that no series is known by its colour alone."""

TEXT = 12
"""Size of text in units."""

HEADROOM = 1.08
"""Of a plot with lines, so that a limit at its top has room for its name."""

LINE_GAP = 14.0
"""Units between the labels at the ends of two lines, at least."""

MOST_TICKS = 7
"""A logarithmic axis with no more values than these is ticked at each that stands apart."""

POINTS = 72.0
"""Units an inch, as SVG has them."""

SVG = "http://www.w3.org/2000/svg"
ElementTree.register_namespace("", SVG)
ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")


@dataclass(frozen=True)
class Plot:
    """A picture and what it says to those who do not see it."""

    title: str
    description: str
    """Its figures in words, for screen readers."""
    svg: str
    """An ``<svg>`` element, see the module's docstring."""


@dataclass(frozen=True)
class Limit:
    """A line that marks a bound."""

    value: float
    label: str


@dataclass(frozen=True)
class Axis:
    """What is drawn along one side."""

    label: str
    """With its unit."""
    log: bool = False


def value_text(value: float) -> str:
    """A figure with three digits, or with all in front of its point."""
    return f"{value:,.{2 if abs(value) < 10 else 1 if abs(value) < 100 else 0}f}"


def bars(
    title: str,
    axis: Axis,
    values: Mapping[str, float],
    limit: Limit | None = None,
    shown_first: str | None = None,
) -> Plot:
    """One bar from zero for each name, with its value beside; those but ``shown_first`` are grey,
    if it is given.
    """
    with _drawing(_rows_height(len(values))) as (figure, axes):
        largest = max([*values.values(), limit.value if limit else 0.0])
        for row, (name, value) in enumerate(values.items()):
            colour = SERIES[0] if shown_first in (None, name) else GREY
            axes.barh(row, value, height=0.42, color=COLOURS[colour])
            _row_text(axes, row, name, value_text(value))
        _rows(axes, len(values), axis)
        axes.set_xlim(0, largest * 1.2)
        if limit:
            axes.axvline(limit.value, color=COLOURS["limit"], linewidth=1.5, dashes=(4, 3))
            _top_label(axes, limit)
        said = ", ".join(f"{name} {value_text(value)}" for name, value in values.items())
        marked = f" Marked: {limit.label}, {value_text(limit.value)}." if limit else ""
        return _plot(title, f"Bars, {axis.label}: {said}.{marked}", figure)


def stacked_bars(
    title: str, axis: Axis, values: Mapping[str, Mapping[str, float]], unit: str
) -> Plot:
    """One bar for each name, its parts one after the other, and their sum at its end.

    The parts are drawn as shares of the sum, for sums may differ a hundredfold; ``unit`` is that
    of the values, and the axis's label is that of the shares.
    """
    parts = list(dict.fromkeys(itertools.chain.from_iterable(values.values())))
    legend_rows = -(-len(parts) // 4)
    with _drawing(_rows_height(len(values)) + 18 * legend_rows) as (figure, axes):
        for row, (name, own) in enumerate(values.items()):
            total, begin = sum(own.values()), 0.0
            for part, colour in zip(parts, SERIES, strict=False):
                share = 100 * own.get(part, 0.0) / total if total else 0.0
                axes.barh(
                    *(row, share, 0.42, begin),
                    color=COLOURS[colour],
                    edgecolor=COLOURS["surface"],
                    linewidth=0.8,
                    label=part if row == 0 else None,
                )
                begin += share
            _row_text(axes, row, name, f"{value_text(total)} {unit}")
        _rows(axes, len(values), axis)
        axes.set_xlim(0, 100)
        figure.legend(
            *axes.get_legend_handles_labels(),
            loc="outside upper left",
            ncols=4,
            frameon=False,
            labelcolor=COLOURS["ink"],
            handlelength=0.9,
            handleheight=0.9,
            columnspacing=1.2,
            borderaxespad=0.0,
        )
        said = "; ".join(
            f"{name}: " + ", ".join(f"{part} {value_text(value)}" for part, value in own.items())
            for name, own in values.items()
        )
        return _plot(title, f"Stacked bars of {unit}. {said}.", figure)


def lines(
    title: str,
    x: Axis,
    y: Axis,
    series: Mapping[str, Sequence[tuple[float, float]]],
    limits: Sequence[Limit] = (),
) -> Plot:
    """One line with markers for each name, its points (x, y), and its name at its end.

    ``limits`` are level. A logarithmic axis along x has room for 0, one along y has not.
    """
    xs = sorted({a for points in series.values() for a, _ in points})
    with _drawing(270) as (figure, axes):
        if x.log:
            if 0 in xs:  # stands as far from the least value as a factor of 2.5
                least = min((a for a in xs if a > 0), default=1)
                axes.set_xscale("symlog", linthresh=least, linscale=0.4)
            else:
                axes.set_xscale("log")
        axes.set_yscale("log" if y.log else "linear")
        ends: dict[str, tuple[float, float, str]] = {}
        for (name, points), colour, marker in zip(
            series.items(), itertools.cycle(SERIES), itertools.cycle(MARKERS), strict=False
        ):
            shown = [(a, b) for a, b in sorted(points) if b > 0 or not y.log]
            if not shown:
                continue
            axes.plot(*zip(*shown, strict=True), color=COLOURS[colour], marker=marker)
            ends[name] = (*shown[-1], colour)
        for limit in limits:
            axes.axhline(limit.value, color=COLOURS["limit"], linewidth=1.5, dashes=(4, 3))
            axes.annotate(
                limit.label,
                (0, limit.value),
                xycoords=("axes fraction", "data"),
                xytext=(4, 4),
                textcoords="offset points",
                color=COLOURS["limit"],
            )
        _scales(axes, x, y, xs)
        if not y.log:
            axes.set_ylim(0, axes.get_ylim()[1] * HEADROOM)
        axes.set_xlabel(x.label)
        # Above the plot, level: a turned label is hard to read, and takes width.
        axes.set_title(y.label, loc="left", color=COLOURS["muted"], fontsize=TEXT, pad=8)
        _name_ends(figure, axes, ends)
        said = "; ".join(
            f"{name}: " + ", ".join(f"{value_text(b)} at {a:g}" for a, b in sorted(points))
            for name, points in series.items()
        )
        marked = "".join(f" Marked: {limit.label}, {value_text(limit.value)}." for limit in limits)
        return _plot(title, f"Lines, {y.label} against {x.label}. {said}.{marked}", figure)


@contextmanager
def _drawing(height: float) -> Iterator[tuple[Figure, Axes]]:
    with mpl.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "the same plot is the same file",
            "font.size": TEXT,
            "text.color": COLOURS["ink"],
            "axes.edgecolor": COLOURS["grid"],
            "axes.labelcolor": COLOURS["muted"],
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.axisbelow": True,
            "axes.grid": True,
            "grid.color": COLOURS["grid"],
            "grid.linewidth": 0.8,
            "xtick.color": COLOURS["grid"],
            "xtick.labelcolor": COLOURS["muted"],
            "ytick.color": COLOURS["grid"],
            "ytick.labelcolor": COLOURS["muted"],
            "lines.linewidth": 1.8,
            "lines.markersize": 5,
        }
    ):
        figure = Figure(figsize=(WIDTH / POINTS, height / POINTS), dpi=POINTS, layout="constrained")
        yield figure, figure.subplots()


def _rows_height(rows: int) -> float:
    return 70 + 40 * rows


def _rows(axes: Axes, count: int, axis: Axis) -> None:
    """Rows from top to bottom, without a scale of their own."""
    axes.set_ylim(count - 0.55, -0.8)
    axes.yaxis.set_major_locator(NullLocator())
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.spines["left"].set_visible(False)
    axes.tick_params(length=0)
    axes.set_xlabel(axis.label)


def _row_text(axes: Axes, row: int, name: str, value: str) -> None:
    """Write above a bar whose it is, and on the right how long."""
    for side, text in ((0, name), (1, value)):
        axes.text(
            *(side, row - 0.3, text),
            ha=("left", "right")[side],
            va="bottom",
            transform=axes.get_yaxis_transform(),
        )


def _top_label(axes: Axes, limit: Limit) -> None:
    left = limit.value < axes.get_xlim()[1] / 2
    axes.annotate(
        limit.label,
        (limit.value, 1),
        xycoords=("data", "axes fraction"),
        xytext=(0, 4),
        textcoords="offset points",
        ha="left" if left else "right",
        color=COLOURS["limit"],
    )


def _scales(axes: Axes, x: Axis, y: Axis, xs: Sequence[float]) -> None:
    for side, axis in ((axes.xaxis, x), (axes.yaxis, y)):
        side.set_major_formatter(
            FuncFormatter(lambda value, _: f"{value:,.3g}" if value < 1e3 else f"{value:,.0f}")
        )
        side.set_major_locator(LogLocator(subs=(1, 2, 5)) if axis.log else MaxNLocator(6))
        side.set_minor_locator(NullLocator())
    if x.log and len(xs) <= MOST_TICKS:
        apart = [b for a, b in zip([-1.0, *xs], xs, strict=False) if b > 1.3 * a]
        axes.xaxis.set_major_locator(FixedLocator(apart))
    axes.tick_params(length=0)


def _name_ends(figure: Figure, axes: Axes, ends: Mapping[str, tuple[float, float, str]]) -> None:
    """Write each line's name at its end, none over another."""
    figure.draw_without_rendering()
    lowest = float("-inf")
    for name, (x, y, colour) in sorted(ends.items(), key=lambda item: item[1][1]):
        level = axes.transData.transform((x, y))[1]
        shift = max(level, lowest + LINE_GAP) - level
        lowest = level + shift
        axes.annotate(
            name,
            (x, y),
            xytext=(8, shift),
            textcoords="offset points",
            va="center",
            color=COLOURS[colour],
            annotation_clip=False,
        )


def _plot(title: str, description: str, figure: Figure) -> Plot:
    """The drawing as an element of a page, without what matplotlib writes for a file of its own."""
    file = io.StringIO()
    unsaid = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=unsaid)
    text = re.sub(r"font-family: [^;\"]+; ", "", file.getvalue())
    for name, colour in COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    svg = ElementTree.fromstring(text)  # noqa: S314  # written by the lines above
    for style in svg.findall(f"{{{SVG}}}defs"):
        svg.remove(style)  # a rule for every element, which would be every element of the page
    _rename(svg, f"plot-{zlib.crc32((title + description).encode()):08x}")
    for size in ("width", "height"):
        del svg.attrib[size]
    names = {"title": title, "desc": description}
    for tag, said in reversed(names.items()):
        element = ElementTree.Element(f"{{{SVG}}}{tag}")
        element.text = said
        svg.insert(0, element)
    svg.set("role", "img")
    svg.set("aria-label", f"{title}. {description}")
    return Plot(title, description, ElementTree.tostring(svg, encoding="unicode"))


def _rename(svg: ElementTree.Element, prefix: str) -> None:
    """Give ids that are referred to a prefix, for a page has many plots; drop the others."""
    text = ElementTree.tostring(svg, encoding="unicode")
    used = set(re.findall(r"url\(#(\w+)\)", text)) | set(re.findall(r'href="#(\w+)"', text))
    for element in svg.iter():
        own = element.attrib.pop("id", None)
        if own in used:
            element.set("id", f"{prefix}-{own}")
        for name, value in element.attrib.items():
            element.set(name, re.sub(r"^(url\()?#(?=\w+\)?$)", rf"\1#{prefix}-", value))
        if path := element.get("d"):  # a hundredth of a unit is not seen
            element.set("d", re.sub(r"(\.\d\d)\d+", r"\1", " ".join(path.split())))
