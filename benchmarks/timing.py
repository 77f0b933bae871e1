"""Seconds of several ways to do the same, taken so that a busy machine is unjust to none."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

Way = TypeVar("Way", bound=Hashable)


def in_turn(ways: Mapping[Way, Callable[[], object]], repeats: int) -> dict[Way, list[float]]:
    """Seconds of ``repeats`` runs of every way, one run of each after the other.

    A first round, which warms caches and arenas up, is not counted.
    """
    seconds: dict[Way, list[float]] = {way: [] for way in ways}
    for repeat in range(repeats + 1):
        for way, run in ways.items():
            start = time.perf_counter()
            run()
            if repeat:
                seconds[way].append(time.perf_counter() - start)
    return seconds
