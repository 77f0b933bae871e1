"""Bounds of the served pipelines: ratios, their limits, and where the results hold them.

A bound is judged by its worst row. A bound whose rows no result holds is not judged. Ratios of one
run on one machine stay valid on a busy or slow machine. Seconds do not, so none is bounded here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from benchmarks.harness.load import USUAL_CELLS
from benchmarks.harness.markdown import markdown_table
from benchmarks.harness.results import machine_note
from benchmarks.harness.serving import DEFAULT
from benchmarks.peers.tables import OURS, served_name
from benchmarks.published import S3, S3_ENDINGS, S3_NETWORKS
from benchmarks.throughput.windows import ONE_ON_THE_MACHINE
from cytoserve.contract import SINGLE_GRAPH
from export.parity.accuracy_budget import LARGEST_DROP

Results = Mapping[str, Mapping[str, Any]]
"""Name of a result, such as ``latency`` -> content of its JSON file."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Selector:
    """Selects figures from the results."""

    result: str
    """Name of the result: its file without ``.json``."""
    rows: str
    """Key of a list of rows, or of one row; dots join the keys of nested ones, "" is the result
    itself."""
    column: str
    """The figure's key in each row; "" if the rows are a mapping of name -> figure."""
    among: Mapping[str, Any] = field(default_factory=dict)
    """Only rows with these values count."""
    named_by: tuple[str, ...] = ()
    """Keys that distinguish rows, such as ``pipeline``."""

    def figures(self, results: Results) -> Iterator[tuple[str, float]]:
        """Yield name and figure of every row that counts and has the figure."""
        for row in self._rows(results):
            if not self.column:
                yield from ((name, float(figure)) for name, figure in row.items())
                continue
            counts = all(row.get(name) == value for name, value in self.among.items())
            if counts and isinstance(row.get(self.column), (int, float)):
                name = ", ".join(str(row.get(key)) for key in self.named_by)
                yield name, float(row[self.column])

    def _rows(self, results: Results) -> Sequence[Row]:
        found: Any = results.get(self.result, {})
        for key in filter(None, self.rows.split(".")):
            found = found.get(key, {}) if isinstance(found, Mapping) else {}
        return [found] if isinstance(found, Mapping) else found


@dataclass(frozen=True)
class Bound:
    """A ratio, and the limit that its worst measurement must keep."""

    name: str
    """Subject of the bound in a few words."""
    ratio: str
    """Dividend and divisor, in words."""
    sign: Literal["<=", ">=", ">"]
    """The measured ratio stands on its left, the limit on its right."""
    limit: float
    where: Selector

    @property
    def limit_text(self) -> str:
        """Sign and limit as they are printed."""
        return f"{self.sign} {self.limit:g}"

    def judge(self, results: Results) -> Verdict:
        """Compare the worst measured figure with the limit."""
        figures = list(self.where.figures(results))
        if not figures:
            return Verdict(self, None, "")
        # A figure that is no number is worse than any other.
        worst, upwards = max if self.sign == "<=" else min, self.sign == "<="
        unknown = float("inf") if upwards else float("-inf")
        name, value = worst(figures, key=lambda figure: _known(figure[1], unknown))
        return Verdict(self, value, name)


@dataclass(frozen=True)
class Verdict:
    """A bound and what was measured."""

    bound: Bound
    measured: float | None
    """The worst figure; None if no result holds one."""
    of: str
    """Name of the worst row, such as a pipeline; "" if there is only one row."""

    @property
    def word(self) -> str:
        """``reached`` in words."""
        return {True: "reached", False: "not reached", None: "not measured"}[self.reached]

    @property
    def measured_text(self) -> str:
        """The figure as it is printed."""
        return "" if self.measured is None else f"{self.measured:#.3g}".rstrip(".")

    @property
    def reached(self) -> bool | None:
        """Whether the bound is kept; None if nothing was measured."""
        if self.measured is None:
            return None
        if self.bound.sign == "<=":
            return self.measured <= self.bound.limit
        if self.bound.sign == ">=":
            return self.measured >= self.bound.limit
        return self.measured > self.bound.limit


def judge(bounds: Sequence[Bound], results: Results) -> list[Verdict]:
    """Return the verdict on every bound, in their order."""
    return [bound.judge(results) for bound in bounds]


def verdicts_table(verdicts: Sequence[Verdict]) -> str:
    """Return verdicts as a Markdown table."""
    head = ["bound", "ratio", "limit", "measured", "worst of", ""]
    return markdown_table(head, map(_cells, verdicts))


def _cells(verdict: Verdict) -> list[str]:
    bound = verdict.bound
    of = f"`{verdict.of}`" if verdict.of else ""
    word = f"**{verdict.word}**" if verdict.reached is False else verdict.word
    return [bound.name, bound.ratio, bound.limit_text, verdict.measured_text, of, word]


def _known(value: float, unknown: float) -> float:
    return unknown if value != value else value


def _checked(check: str) -> Selector:
    return Selector("regression", "checks", "ratio", {"check": check}, named_by=("of",))


REGRESSION = (
    Bound("overhead", "served / in process", "<=", 3, _checked("overhead")),
    Bound("speedup", "PyTorch, cell by cell / served", ">", 1, _checked("speedup")),
    Bound("batch", "frames / executions of the network", ">", 1, _checked("batch")),
    Bound("growth", "ratio of seconds / ratio of cells", "<=", 2, _checked("growth")),
    Bound("memory", "bytes of a further cell / pixels of the frame", "<=", 0.1, _checked("memory")),
)
"""Bounds that every change must keep, even on a busy machine; see `benchmarks.regression`."""


def regression_table(result: Mapping[str, Any]) -> str:
    """Return all figures, and the worst of each kind with its bound, as Markdown."""
    checks = markdown_table(
        ["check", "of", "ratio"],
        [[row["check"], f"`{row['of']}`", f"{row['ratio']:.3g}"] for row in result["checks"]],
    )
    verdicts = verdicts_table(judge(REGRESSION, {"regression": result}))
    return "\n".join([verdicts, "", checks, "", machine_note(result["machine"]), ""])


def _fields(rows: str, column: str, *named_by: str, **among: str) -> Selector:
    return Selector("fields", rows, column, among, named_by=("pipeline", *named_by))


FIELDS = (
    Bound(
        "Size of a frame",
        "the worst of recall, precision, F1, AP50 and PQ: a frame of 1 to 36 training fields / the "
        "same frame cut into fields",
        ">=",
        0.97,
        _fields("sizes", "least_ratio", "fields"),
    ),
    Bound(
        "Field in a corner",
        "the same: fields in the corners of a larger frame / the same fields alone",
        ">=",
        0.97,
        _fields("corners", "least_ratio"),
    ),
    Bound(
        "Place of a frame",
        "cells found at an offset of some pixels - their mean / the mean",
        "<=",
        0.01,
        _fields("offsets", "deviation", "offset"),
    ),
    Bound(
        "Scale of a frame",
        "F1 at the training's scale - F1 of the same frames resized, where their scale is told",
        "<=",
        0.03,
        _fields("factors", "drop", "told", "factor"),
    ),
    Bound(
        "Empty frames",
        "cells found / frames without a cell",
        "<=",
        0.05,
        _fields("empty", "per_frame", kind="all"),
    ),
    Bound(
        "Empty frames, foreground",
        "pixels called foreground / pixels of frames without a cell",
        "<=",
        0.001,
        _fields("foreground", "share", kind="all"),
    ),
    Bound(
        "Doubled cells",
        "cells that are one of two for the same cell / cells found",
        "<=",
        0.005,
        _fields("outlines", "doubled"),
    ),
    Bound(
        "Outlines along boxes",
        "length of outlines along the cells' own boxes / their length",
        "<=",
        0.01,
        _fields("outlines", "along_box"),
    ),
    *(
        Bound(
            f"Distance of outlines, {title}",
            "mean in pixels over matched cells of 20 pixels and more",
            "<=",
            1,
            _fields("outlines", column),
        )
        for column, title in {
            "to_truth_px": "found to annotated",
            "from_truth_px": "annotated to found",
        }.items()
    ),
)
"""Bounds on answers for any size, place and scale of a frame; see `benchmarks.fields`."""


def _nuclei_bounds(network: str, dice: float) -> tuple[Bound, ...]:
    """Return the bounds of a network of study S3; ``dice`` is the study's on original images."""
    result = f"brecahad{S3_ENDINGS[network]}"
    return (
        Bound(
            f"Dice, {network}",
            "whole BreCaHAD frames of a case that was not trained on, through `nuclei_unet`; the "
            "study's on original images",
            ">=",
            dice,
            Selector(result, "", "dice"),
        ),
        Bound(
            f"Seams, {network}",
            "pixels within 3/255 when the grid of tiles is shifted / all",
            ">=",
            0.999,
            Selector(result, "seams.shifts", "below_limit", named_by=("offset",)),
        ),
        Bound(
            f"Speed, {network}",
            "PyTorch tile by tile / served",
            ">=",
            2,
            Selector(result, "speed", "speedup"),
        ),
    )


OVERHEAD = Bound(
    "Overhead of the server",
    "served through gRPC / the same graphs in process, every pipeline at 1024 x 1024",
    "<=",
    1.1,
    Selector("latency", "overhead", "overhead", {"variant": DEFAULT}, named_by=("pipeline",)),
)

TARGETS = (
    *FIELDS,
    OVERHEAD,
    *(
        Bound(
            f"Overhead of the server, {title}",
            ratio,
            OVERHEAD.sign,
            OVERHEAD.limit,
            Selector("latency", "overhead", column, {"variant": variant}, named_by=("pipeline",)),
        )
        for title, ratio, column, variant in (
            (
                "shared memory",
                "the same, with frames in shared memory",
                "overhead_shared_memory",
                DEFAULT,
            ),
            (
                "variant `single-graph`",
                "served through gRPC / the graphs that it joins in process",
                "overhead",
                SINGLE_GRAPH,
            ),
            (
                "variant `single-graph`, shared memory",
                "the same, with frames in shared memory",
                "overhead_shared_memory",
                SINGLE_GRAPH,
            ),
        )
    ),
    *(
        Bound(
            f"Overhead of the server, real frames{title}",
            "served / the same graphs in process, blood cells",
            OVERHEAD.sign,
            OVERHEAD.limit,
            Selector("bccd", rows, ""),
        )
        for title, rows in (
            ("", "overhead"),
            (", variant `single-graph`", f"variants.{SINGLE_GRAPH}.overhead"),
        )
    ),
    Bound(
        "Cost of classes, real frames",
        "`yolo_resnet` / `yolo`, both served, blood cells, by the line through the frames at 15 "
        "found cells (the study: 3.25)",
        "<=",
        1.6,
        Selector("bccd", "cost_of_usual_cells", "ratio", {"cells": USUAL_CELLS}),
    ),
    Bound(
        "Cost of classes, 15 rendered cells",
        "`yolo_resnet` / `yolo`, both served, in turn at 2048 x 2048",
        "<=",
        1.6,
        Selector("scaling", "classified", "cost_of_classes", {"cells": USUAL_CELLS}),
    ),
    Bound(
        "Speed, real frames",
        "the study's way / `yolo_resnet` served, blood cells",
        ">=",
        4,
        Selector("bccd", "speedup", "yolo_resnet"),
    ),
    *(
        Bound(
            f"Speed, 15 rendered cells{title}",
            "the study's way in a process of its own / `yolo_resnet` served",
            ">=",
            4,
            Selector(
                "peers",
                "frames",
                "times_the_study",
                {"way": way, "pipeline": "yolo_resnet", "cells": USUAL_CELLS},
            ),
        )
        for way, title in {
            OURS: "",
            served_name("openvino"): ", variant `openvino`",
        }.items()
    ),
    Bound(
        "Throughput of 8 clients",
        "frames per second of variant `throughput` / the most that the graphs do in one process",
        ">=",
        0.95,
        Selector(
            "throughput",
            "saturation",
            "share",
            {"variant": "throughput"},
            named_by=("pipeline", "client"),
        ),
    ),
    Bound(
        "Throughput of 8 clients, shared memory",
        "the same, with frames in shared memory",
        ">=",
        0.95,
        Selector(
            "throughput",
            "saturation",
            "share",
            {"variant": "throughput", "client": ONE_ON_THE_MACHINE},
            named_by=("pipeline",),
        ),
    ),
    Bound(
        "Batches of 8 clients",
        "frames / executions of a network that batches, by default",
        ">",
        1,
        Selector(
            "throughput",
            "batches",
            "requests_per_execution",
            {"concurrency": 8, "variant": DEFAULT},
            named_by=("step", "client"),
        ),
    ),
    Bound(
        "Cost of a cell",
        "what one more costs `yolo_resnet` beyond `yolo` / the classifier's own time for a crop",
        "<=",
        1.2,
        Selector("scaling", "classifier", "ratio"),
    ),
    Bound(
        "Memory of 2,000 cells at 2048 x 2048",
        "peak of the server / a mask of the frame's size for each cell",
        "<=",
        0.1,
        Selector(
            "scaling",
            "memory",
            "share",
            {"cells": 2000, "width": 2048, "height": 2048},
            named_by=("pipeline",),
        ),
    ),
    *(
        Bound(
            f"Faster variants, {title}",
            "the default's figure on annotated frames - that of a variant",
            "<=",
            LARGEST_DROP[figure],
            Selector("variants", "rows", f"{figure}_drop", named_by=("variant", "pipeline")),
        )
        for figure, title in {"iou": "IoU", "accuracy": "accuracy", "dice": "Dice"}.items()
    ),
    Bound(
        "Dice, glioma cells",
        "T98G fields that were not trained on, through `glioma_unet`",
        ">=",
        0.8,
        Selector("t98g-unet", "", "dice"),
    ),
    *(
        bound
        for network, (dice, _) in zip(S3_NETWORKS, S3["original"], strict=True)
        for bound in _nuclei_bounds(network, dice)
    ),
)
"""Bounds that a quiet machine should reach."""
