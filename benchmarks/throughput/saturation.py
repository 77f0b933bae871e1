"""Measures served throughput as a share of the limit, every window between two of the limit's.

The pace of a shared machine changes within a minute. So neighbouring windows are compared, not
windows of one long round. This includes processor time, which changes with that pace.
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
"""Number of requests at a time for the comparison with the limit."""


def bound_among(concurrency: Sequence[int]) -> int:
    """Return `BOUND_AT`, or the number that is nearest to it."""
    return min(concurrency, key=lambda number: abs(number - BOUND_AT))


@dataclass(frozen=True)
class Between:
    """A window of a server, and the limit's windows before and after it."""

    served: Sample
    before: Sample
    after: Sample

    @property
    def share(self) -> float:
        """Frames per second / the mean of the limit's frames per second."""
        limit = statistics.fmean((self.before.frames_per_second, self.after.frames_per_second))
        return self.served.frames_per_second / limit


def measure_between(
    benches: Mapping[str, Bench], limit: Layout, ways: Sequence[Served], rounds: int
) -> dict[Served, list[Between]]:
    """Measure the clients ``ways`` one after the other, each between two windows of ``limit``.

    Args:
        benches: variant -> bench, which has measured windows of as many requests at a time.
        limit: layout that answers most frames.
        ways: clients with `bound_among` requests at a time.
        rounds: number of windows of each, at least two.
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
    """Yield a row per client: the median share with its interval, and processor time per frame.

    Keys that begin with ``limit_`` are figures of the limit's windows beside those of the client.
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
    """Return medians of processor seconds per frame."""
    return {
        "cpu_seconds_per_frame": statistics.median(one.cpu_per_frame for one in samples),
        "cpu_seconds_by_part": {
            part: statistics.median(one.cpu_by_part.get(part, 0.0) for one in samples)
            for part in samples[0].cpu_by_part
        },
    }
