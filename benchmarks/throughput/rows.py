"""What the windows of all rounds say together, as rows of a result."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.throughput.layouts import Layout
from benchmarks.throughput.windows import Sample, Way


def best_layout(samples: Mapping[Way, Sequence[Sample]]) -> Layout:
    """Return the layout that answered most frames per second, by the median of its windows."""
    return max(
        (way for way in samples if isinstance(way, Layout)),
        key=lambda way: statistics.median(one.frames_per_second for one in samples[way]),
    )


def rows_of(
    pipeline: str, samples: Mapping[Way, Sequence[Sample]]
) -> dict[str, list[dict[str, Any]]]:
    """Return rows by the name of their list: ``in_process``, ``served`` and ``batches``.

    Args:
        pipeline: all samples are of it.
        samples: of every way as many as there were rounds, in their order.
    """
    rates = {way: [one.frames_per_second for one in found] for way, found in samples.items()}
    best = best_layout(samples)
    rows: dict[str, list[dict[str, Any]]] = {"in_process": [], "served": [], "batches": []}
    for way, found in samples.items():
        shares = [one / limit for one, limit in zip(rates[way], rates[best], strict=True)]
        figures = {
            "frames_per_second": statistics.median(rates[way]),
            "share": statistics.median(shares),
            "p50_seconds": statistics.median(one.p50 for one in found),
            "p99_seconds": statistics.median(one.p99 for one in found),
            "answers": sum(one.answers for one in found),
            "cpu_seconds_per_frame": statistics.median(one.cpu_per_frame for one in found),
            "client_cores": statistics.median(one.client_cores for one in found),
            "other_cores": statistics.median(one.other_cores for one in found),
        }
        if isinstance(way, Layout):
            about = {"layout": way.name, "chains": way.chains, "threads": way.threads}
            more = {"callers": way.callers, "batch": way.batch, "best": way == best}
            rows["in_process"].append({"pipeline": pipeline, **about, **more, **figures})
            continue
        asked = {"variant": way.variant, "client": way.client, "concurrency": way.concurrency}
        key: dict[str, Any] = {"pipeline": pipeline, **asked}
        cores = statistics.median(one.server_cores for one in found)
        rows["served"].append({**key, **figures, "server_cores": cores})
        rows["batches"] += [{**key, **row} for row in _batches(found)]
    return rows


def _batches(found: Sequence[Sample]) -> Iterator[dict[str, Any]]:
    for step in found[0].steps:
        requests = sum(one.steps[step].requests for one in found)
        rows = sum(one.steps[step].rows for one in found)
        executions = sum(one.steps[step].executions for one in found)
        if executions:
            yield {
                "step": step,
                "executions": executions,
                "requests_per_execution": requests / executions,
                "rows_per_execution": rows / executions,
            }
