"""Interleaved timing, so that background load hits every contender alike, and its statistics.

`Speed` compares a served pipeline with its graphs alone, and with the study's way.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from scipy.stats import bootstrap

from benchmarks.harness.results import table_of

Name = TypeVar("Name", bound=Hashable)

WARM_UPS = 2
"""Number of rounds that are not counted. ONNX Runtime allocates memory for a shape of input twice:
piece by piece in the first run, and as one block in the second, when it knows the pieces."""


def time_interleaved(
    contenders: Mapping[Name, Callable[[], object]], repeats: int, warm_ups: int = WARM_UPS
) -> dict[Name, list[float]]:
    """Return the seconds of ``repeats`` runs of every contender, one after the other per round.

    A contender may leave cold caches, spinning threads or a warm server to the next one, so the
    order changes: see `williams_orders`. ``warm_ups`` rounds before them are not counted.
    """
    seconds: dict[Name, list[float]] = {name: [] for name in contenders}
    names, orders = tuple(contenders), cycle(williams_orders(len(contenders)))
    for repeat, order in enumerate(islice(orders, warm_ups + repeats), -warm_ups):
        for name in (names[place] for place in order):
            start = time.perf_counter()
            contenders[name]()
            if repeat >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def williams_orders(count: int) -> list[tuple[int, ...]]:
    """Return orders of ``count`` contenders in which each follows every other one equally often.

    This is a Williams design: E. J. Williams, Experimental designs balanced for the estimation of
    residual effects of treatments, Aust. J. Sci. Res. A 2 (1949). An odd count needs the reverse
    orders too.
    """
    zigzag = [(place + 1) // 2 if place % 2 else -place // 2 for place in range(count)]
    rows = [tuple((first + step) % count for step in zigzag) for first in range(count)]
    return rows if count % 2 == 0 else [row for each in rows for row in (each, each[::-1])]


def median_ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Return the median over frames of the ratio of each frame's own two times.

    Load that lasts for a whole frame affects both times. A ratio of two medians would compare
    different moments, and frames with different numbers of cells.
    """
    return statistics.median(one / other for one, other in zip(over, under, strict=True))


def percentile(values: Sequence[float], rank: int) -> float:
    """Return the smallest value that ``rank`` percent do not exceed: of few values, the largest."""
    return float(np.percentile(values, rank, method="inverted_cdf"))


def percentile_text(value: str, rank: int, count: float) -> str:
    """Return a percentile for a table, marked if it is the largest of only ``count`` values."""
    return value if count * (100 - rank) >= 100 else f"{value} max"


def median_interval(values: npt.ArrayLike) -> tuple[float, float]:
    """Return low and high end of the median's 95 % confidence interval, from two values or more.

    Values are resampled from the measured ones (the percentile bootstrap; Efron, 1979, Annals of
    Statistics 7:1).
    """
    found = bootstrap(
        (values,), np.median, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return float(found.low), float(found.high)


@dataclass(frozen=True)
class Slope:
    """A least-squares line through some points."""

    slope: float
    intercept: float
    r_squared: float
    """Coefficient of determination: 1 if the points lie on the line, 0 if it explains nothing."""
    points: int

    @classmethod
    def through(cls, xs: Sequence[float], ys: Sequence[float]) -> Slope:
        """Fit a line to two points or more.

        Raises:
            ValueError: all ``xs`` are the same.
        """
        if len(set(xs)) < 2:
            raise ValueError(f"a line needs points at two places or more; given: {list(xs)}")
        slope, intercept = np.polyfit(xs, ys, 1)
        rest = np.asarray(ys) - (slope * np.asarray(xs) + intercept)
        spread = float(((np.asarray(ys) - np.mean(ys)) ** 2).sum())
        fitted = 1 - float((rest**2).sum()) / spread if spread else 1.0
        return cls(float(slope), float(intercept), fitted, len(xs))


Image = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Median seconds over the frames, end to end, from the camera frame as an array."""

    served: float
    """Seconds through the server."""
    in_process: float
    """Seconds of the same ONNX graphs in this process, asked by the same client."""
    study: float
    """Seconds of the same weights as the study ran them, in PyTorch."""

    @property
    def overhead(self) -> float:
        """Overhead of the server: served / in process."""
        return self.served / self.in_process

    @property
    def speedup(self) -> float:
        """Speedup over the study's way: study / served."""
        return self.study / self.served


def measure_speed(
    bind: Callable[[Image], Mapping[str, Callable[[], object]]],
    frames: Iterable[Image],
    repeats: int,
) -> Speed:
    """Time all three, interleaved frame by frame, so that other load hits them alike.

    Args:
        bind: function from a frame to calls without arguments, by the names of `Speed`'s fields.
            What it does itself is not timed.
        frames: camera frames.
        repeats: timed rounds per frame.
    """
    seconds: dict[str, list[float]] = defaultdict(list)
    for image in frames:
        for name, times in time_interleaved(bind(image), repeats).items():
            seconds[name].append(statistics.median(times))
    return Speed(**{name: statistics.median(times) for name, times in seconds.items()})


def speed_table(speeds: Mapping[str, Speed]) -> str:
    """Return pipeline -> speed as a Markdown table."""
    return table_of(
        speeds.items(),
        {
            "pipeline": lambda item: f"`{item[0]}`",
            "served s": lambda item: f"{item[1].served:.3f}",
            "in process s": lambda item: f"{item[1].in_process:.3f}",
            "overhead": lambda item: f"{item[1].overhead:.2f}",
            "the study's way s": lambda item: f"{item[1].study:.3f}",
            "speedup": lambda item: f"{item[1].speedup:.2f}",
        },
    )
