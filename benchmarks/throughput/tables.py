"""The result of `benchmarks.throughput` as rows and as a Markdown page."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.harness.markdown import markdown_table
from benchmarks.harness.results import machine_note
from benchmarks.harness.timing import percentile_text
from benchmarks.throughput.layouts import Layout
from benchmarks.throughput.windows import CLIENT, TRITON, Sample, Way
from cytoserve.contract import PIPELINES


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
        pipeline: pipeline of all samples.
        samples: samples of every client and layout, one per round, in their order.
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


Row = Mapping[str, Any]


def throughput_table(result: Mapping[str, Any]) -> str:
    """Return the page of a result of ``benchmarks.throughput``."""
    frames = result["frames"]
    cells = f", {frames['cells']} cells each" if frames["rendered"] else ""
    kind = "rendered frames" if frames["rendered"] else "frames"
    head = (
        f"{frames['count']} {kind} of {frames['width']} x {frames['height']} px{cells}; "
        f"{result['rounds']} rounds of {result['window_seconds']:g} s windows, all ways in turn."
    )
    others = statistics.median(
        row["other_cores"] for row in (*result["served"], *result["in_process"])
    )
    beside = "A part of the limit beside it is the median of its rounds, with a 95 % interval."
    tail = "A p99 marked `max` is the slowest of too few answers of a window to tell."
    busy = f"Processes of others kept {others:.1f} cores busy meanwhile (median of all windows)."
    pipelines = list(dict.fromkeys(row["pipeline"] for row in result["served"]))
    parts = [_pipeline(result, name) for name in pipelines]
    return "\n".join([head, beside, tail, busy, "", *parts, machine_note(result["machine"]), ""])


def _pipeline(result: Mapping[str, Any], pipeline: str) -> str:
    served, inside, batches, saturation = (
        [row for row in result[name] if row["pipeline"] == pipeline]
        for name in ("served", "in_process", "batches", "saturation")
    )
    lines = [f"## {pipeline}", ""]
    for row in saturation:
        low, high = row["share_interval"]
        lines.append(
            f"- {_way(row)}: **{row['share']:.2f}** of the limit beside it "
            f"(95 %: {low:.2f} to {high:.2f}; {row['rounds']} rounds)"
        )
    steps = list(dict.fromkeys(row["step"] for row in batches))
    columns = [
        *("variant", "requests at a time", "client", "frames/s", "share", "p50 s", "p99 s"),
        *("CPU s per frame", "server's cores", "client's cores"),
        *(f"requests per execution of {step}" for step in steps),
    ]
    asked = ("variant", "client", "concurrency")
    formed = {
        (*(row[key] for key in asked), row["step"]): row["requests_per_execution"]
        for row in batches
    }
    rows = [
        [
            row["variant"],
            str(row["concurrency"]),
            row["client"],
            f"{row['frames_per_second']:.1f}",
            f"{row['share']:.2f}",
            f"{row['p50_seconds']:.3f}",
            _p99(row, result["rounds"]),
            f"{row['cpu_seconds_per_frame']:.3f}",
            f"{row['server_cores']:.2f}",
            f"{row['client_cores']:.2f}",
            *(_formed(formed.get((*(row[key] for key in asked), step))) for step in steps),
        ]
        for row in served
    ]
    lines += ["", markdown_table(columns, rows), "", "The limit, in this process:", ""]
    columns = ["layout", "frames/s", "share of the best", "p99 s", "CPU s per frame", "cores"]
    rows = [
        [
            f"**{row['layout']}**" if row["best"] else row["layout"],
            f"{row['frames_per_second']:.1f}",
            f"{row['share']:.2f}",
            _p99(row, result["rounds"]),
            f"{row['cpu_seconds_per_frame']:.3f}",
            f"{row['client_cores']:.2f}",
        ]
        for row in inside
    ]
    lines += [markdown_table(columns, rows), "", *_processor_time(pipeline, saturation), ""]
    return "\n".join(lines)


def _processor_time(pipeline: str, saturation: Sequence[Row]) -> list[str]:
    """Return the parts of a frame's processor time, served and without a server."""
    measured = {part for row in saturation for part in row["cpu_seconds_by_part"]}
    kind = PIPELINES[pipeline]
    in_order = (*kind.steps, kind.merged_step or "", TRITON, CLIENT)
    parts = [part for part in in_order if part in measured]
    rows = []
    for row in saturation:
        for name, of in ((_way(row), ""), ("the limit beside it", "limit_")):
            by_part = dict(row[f"{of}cpu_seconds_by_part"])
            if steps := [by_part[step] for step in kind.steps if step in by_part]:
                by_part[kind.merged_step or ""] = sum(steps)
            figures = [by_part.get(part) for part in parts]
            whole = row[f"{of}cpu_seconds_per_frame"]
            rows.append([name, *(_milliseconds(figure) for figure in (*figures, whole))])
    return [
        "Where a frame's processor time goes in those windows, in ms. Served, a step's is that of "
        "its workers, which copy tensors too, and `tritonserver` is the rest of the server. Of the "
        "limit a step's is that of its graph alone, told where runs have one thread; what is "
        "missing from the sum is the client's. A merged step is that of all that it joins.",
        "",
        markdown_table(["way", *parts, "in all"], rows),
    ]


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1e3 * seconds:.1f}"


def _way(row: Row) -> str:
    return f"{row['variant']}, {row['concurrency']} requests at a time, {row['client']}"


def _p99(row: Row, rounds: int) -> str:
    """Return the median of the windows' p99 as text."""
    return percentile_text(f"{row['p99_seconds']:.3f}", 99, row["answers"] / rounds)


def _formed(mean: float | None) -> str:
    return "" if mean is None else f"{mean:.1f}"
