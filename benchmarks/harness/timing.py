"""Seconds of several ways to do the same, taken so that a busy machine is unjust to none."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import cycle, islice
from typing import TypeVar

Way = TypeVar("Way", bound=Hashable)

WARM_UPS = 2
"""Rounds that are not counted. ONNX Runtime gets memory for a shape of input twice: piece by piece
the first time, and as one block the second time, by what it then knows of its pieces."""


def time_interleaved(
    ways: Mapping[Way, Callable[[], object]], repeats: int, warm_ups: int = WARM_UPS
) -> dict[Way, list[float]]:
    """Seconds of ``repeats`` runs of every way, one run of each after the other.

    A way leaves caches cold to the next one, threads that still spin, or a server warm: see
    `williams_orders`. ``warm_ups`` rounds before them are not counted.
    """
    seconds: dict[Way, list[float]] = {way: [] for way in ways}
    names, orders = tuple(ways), cycle(williams_orders(len(ways)))
    for repeat, order in enumerate(islice(orders, warm_ups + repeats), -warm_ups):
        for way in (names[place] for place in order):
            start = time.perf_counter()
            ways[way]()
            if repeat >= 0:
                seconds[way].append(time.perf_counter() - start)
    return seconds


def williams_orders(count: int) -> list[tuple[int, ...]]:
    """Orders of ``count`` ways in which each follows every other one equally often.

    A Williams design: E. J. Williams, Experimental designs balanced for the estimation of residual
    effects of treatments, Aust. J. Sci. Res. A 2 (1949). An odd count needs the reverses too.
    """
    zigzag = [(place + 1) // 2 if place % 2 else -place // 2 for place in range(count)]
    rows = [tuple((first + step) % count for step in zigzag) for first in range(count)]
    return rows if count % 2 == 0 else [row for each in rows for row in (each, each[::-1])]


def median_ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Median over frames of the ratio of each frame's own two times.

    A moment that is busy for a whole frame hits both of them; the ratio of two medians would
    compare frames of different moments, and of different numbers of cells.
    """
    return statistics.median(one / other for one, other in zip(over, under, strict=True))
