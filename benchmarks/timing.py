"""Seconds of several ways to do the same, taken so that a busy machine is unjust to none."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

Way = TypeVar("Way", bound=Hashable)

WARM_UPS = 2
"""Rounds that are not counted. ONNX Runtime gets memory for a shape of input twice: piece by piece
the first time, and as one block the second time, by what it then knows of its pieces."""


def in_turn(
    ways: Mapping[Way, Callable[[], object]], repeats: int, warm_ups: int = WARM_UPS
) -> dict[Way, list[float]]:
    """Seconds of ``repeats`` runs of every way, one run of each after the other.

    Every round begins with another way, so that none always follows the same one, which may have
    left the processor's caches cold, or a server warm. ``warm_ups`` rounds before them are not
    counted.
    """
    seconds: dict[Way, list[float]] = {way: [] for way in ways}
    order = deque(ways)
    for repeat in range(-warm_ups, repeats):
        order.rotate(-1)
        for way in order:
            start = time.perf_counter()
            ways[way]()
            if repeat >= 0:
                seconds[way].append(time.perf_counter() - start)
    return seconds


def median_ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Median over frames of the ratio of each frame's own two times.

    A moment that is busy for a whole frame hits both of them; the ratio of two medians would
    compare frames of different moments, and of different numbers of cells.
    """
    return statistics.median(one / other for one, other in zip(over, under, strict=True))
