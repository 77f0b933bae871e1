"""The result of `benchmarks.regression`: its figures, bounds and page."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.harness.bounds import Bound, judge, verdicts_table
from benchmarks.harness.results import Result, machine_note, table_of


@dataclass(frozen=True)
class Load:
    """Numbers of frames, cells and requests that are measured."""

    repeats: int = 3
    """Number of timed rounds, of which the median counts."""
    frame: tuple[int, int] = (640, 480)
    """(width, height) in pixels: one tile of the network."""
    cells: int = 15
    """Number of cells in such a frame."""
    side: int = 2048
    """Side in pixels of the frame with growing numbers of cells."""
    few: int = 100
    """Smaller number of cells for the growth."""
    many: int = 2000
    """Larger number of cells for the growth."""
    clients: int = 8
    """Number of clients that ask at the same time."""
    requests: int = 8
    """Number of requests per client."""


@dataclass(frozen=True)
class Check:
    """One ratio."""

    check: str
    """Name of the check, see `benchmarks.regression`."""
    of: str
    """The pipeline or step."""
    ratio: float


@dataclass(frozen=True, kw_only=True)
class RegressionResult(Result):
    """The ratios of one run."""

    checks: tuple[Check, ...]
    load: Load

    def of(self, check: str) -> list[tuple[str, float]]:
        """Return the ratios of one check, by pipeline or step."""
        return [(row.of, row.ratio) for row in self.checks if row.check == check]


BOUNDS: tuple[Bound[RegressionResult], ...] = (
    Bound("overhead", "served / in process", "<=", 3, lambda r: r.of("overhead")),
    Bound("speedup", "PyTorch, cell by cell / served", ">", 1, lambda r: r.of("speedup")),
    Bound("batch", "frames / executions of the network", ">", 1, lambda r: r.of("batch")),
    Bound("growth", "ratio of seconds / ratio of cells", "<=", 2, lambda r: r.of("growth")),
    Bound(
        "memory",
        "bytes of a further cell / pixels of the frame",
        "<=",
        0.1,
        lambda r: r.of("memory"),
    ),
)
"""Bounds that every change must keep, even on a busy machine; see `benchmarks.regression`."""


def regression_page(result: RegressionResult) -> str:
    """Return all figures, and the worst of each kind with its bound, as Markdown."""
    checks = table_of(
        result.checks,
        {
            "check": lambda row: row.check,
            "of": lambda row: f"`{row.of}`",
            "ratio": lambda row: f"{row.ratio:.3g}",
        },
    )
    verdicts = verdicts_table(judge(BOUNDS, result))
    return "\n".join([verdicts, "", checks, "", machine_note(result.machine), ""])
