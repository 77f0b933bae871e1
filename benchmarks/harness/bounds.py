"""Bounds of the served pipelines: ratios, their limits, and the figures that they judge.

A bound is judged by its worst row. A bound whose rows no result holds is not judged. Ratios of one
run on one machine stay valid on a busy or slow machine. Seconds do not, so none is bounded. Each
benchmark has its bounds beside the type of its result; `benchmarks.report` gathers them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from benchmarks.harness.results import Result, markdown_table

Kind = TypeVar("Kind", bound=Result)

Figures = Iterable[tuple[str, float | None]]
"""Name of a row, such as its pipeline, and its figure; None does not count."""


@dataclass(frozen=True)
class Bound(Generic[Kind]):
    """A ratio, and the limit that its worst measurement must keep."""

    name: str
    """Subject of the bound in a few words."""
    ratio: str
    """Dividend and divisor, in words."""
    sign: Literal["<=", ">=", ">"]
    """The measured ratio stands on its left, the limit on its right."""
    limit: float
    figures: Callable[[Kind], Figures]
    """Function that selects what the bound is about from a result."""

    @property
    def limit_text(self) -> str:
        """Sign and limit as they are printed."""
        return f"{self.sign} {self.limit:g}"

    def judge(self, result: Kind | None) -> Verdict:
        """Compare the worst figure of a result with the limit; without a result there is none."""
        selected = () if result is None else self.figures(result)
        figures = [(name, figure) for name, figure in selected if figure is not None]
        if not figures:
            return Verdict(self, None, "")
        # A figure that is no number is worse than any other.
        worst, unknown = (max, float("inf")) if self.sign == "<=" else (min, float("-inf"))
        name, value = worst(figures, key=lambda each: unknown if each[1] != each[1] else each[1])
        return Verdict(self, value, name)


@dataclass(frozen=True)
class Verdict:
    """A bound and what was measured."""

    bound: Bound[Any]
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


def judge(bounds: Sequence[Bound[Kind]], result: Kind | None) -> list[Verdict]:
    """Return the verdict on every bound, in their order."""
    return [bound.judge(result) for bound in bounds]


def verdicts_table(verdicts: Sequence[Verdict]) -> str:
    """Return verdicts as a Markdown table."""
    head = ["bound", "ratio", "limit", "measured", "worst of", ""]
    return markdown_table(head, map(_cells, verdicts))


def _cells(verdict: Verdict) -> list[str]:
    bound = verdict.bound
    of = f"`{verdict.of}`" if verdict.of else ""
    word = f"**{verdict.word}**" if verdict.reached is False else verdict.word
    return [bound.name, bound.ratio, bound.limit_text, verdict.measured_text, of, word]
