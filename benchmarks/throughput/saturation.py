"""What is served as a part of the limit, every window of it between two of the limit's.

A machine that others use too changes its pace within a minute. So what stands side by side is
compared, not windows of one long round: of processor time, too, which changes with that pace.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.progress import track

from benchmarks.harness.timing import median_interval
from benchmarks.throughput.layouts import Layout
from benchmarks.throughput.windows import Bench, Sample, Served

BOUND_AT = 8
"""Clients at which what is served is compared with the limit."""


def bound_among(concurrency: Sequence[int]) -> int:
    """Return `BOUND_AT`, or what is nearest to it."""
    return min(concurrency, key=lambda number: abs(number - BOUND_AT))


@dataclass(frozen=True)
class Between:
    """A window of what is served, and the limit's before and after it."""

    served: Sample
    before: Sample
    after: Sample

    @property
    def share(self) -> float:
        """Frames per second as a part of the mean of the limit's."""
        limit = statistics.fmean((self.before.frames_per_second, self.after.frames_per_second))
        return self.served.frames_per_second / limit


def measure_between(
    benches: Mapping[str, Bench], limit: Layout, ways: Sequence[Served], rounds: int
) -> dict[Served, list[Between]]:
    """Measure ``ways`` one after the other, each between two windows of ``limit``.

    Args:
        benches: by variant; each has measured other windows of as many requests at a time.
        limit: the layout that answers most frames.
        ways: those of `bound_among` requests at a time.
        rounds: windows of each way, two at least.
    """
    found: dict[Served, list[Between]] = defaultdict(list)
    before = None
    for way in track(list(ways) * rounds, "measuring shares of the limit", transient=True):
        bench = benches[way.variant]
        before = before or bench.measure(limit)
        served, after = bench.measure(way), bench.measure(limit)
        found[way].append(Between(served, before, after))
        before = after
    return found


def saturation_rows(
    pipeline: str, limit: Layout, found: Mapping[Served, Sequence[Between]]
) -> Iterator[dict[str, Any]]:
    """Yield a row for each way: the median share, how sure it is, and a frame's processor time.

    What begins with ``limit_`` is of the limit's windows beside those of the way.
    """
    for way, windows in found.items():
        shares = [window.share for window in windows]
        served = [window.served for window in windows]
        beside = [one for window in windows for one in (window.before, window.after)]
        yield {
            "pipeline": pipeline,
            "variant": way.variant,
            "client": way.client,
            "concurrency": way.concurrency,
            "layout": limit.name,
            "rounds": len(windows),
            "share": statistics.median(shares),
            "share_interval": median_interval(shares),
            **_processor_time(served),
            **{f"limit_{name}": figure for name, figure in _processor_time(beside).items()},
        }


def _processor_time(samples: Sequence[Sample]) -> dict[str, Any]:
    """Medians, of a frame."""
    return {
        "cpu_seconds_per_frame": statistics.median(one.cpu_per_frame for one in samples),
        "cpu_seconds_by_part": {
            part: statistics.median(one.cpu_by_part.get(part, 0.0) for one in samples)
            for part in samples[0].cpu_by_part
        },
    }
