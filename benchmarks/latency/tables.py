"""The result of `benchmarks.latency` as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.harness.results import machine_note
from benchmarks.harness.serving import DEFAULT
from benchmarks.harness.timing import percentile_text


def latency_table(result: Mapping[str, Any]) -> str:
    """All tables: overhead, every frame, and the steps of the first kind of frame."""
    sections = [
        "What the server adds: seconds through it / seconds of the same graphs in the client's "
        "process in the same round, the median of all rounds, with its 95 % confidence interval. "
        "Milliseconds are medians of their own.",
        "\n".join(_overhead(result)),
        "Where that goes: mean milliseconds of every step, in this process and in the server, of "
        "the same rounds; half of the server's requests came through shared memory. Steps of one "
        "request may run at the same time. A merged step is compared with all that it joins.",
        "\n".join(_overhead_steps(result)),
        "Milliseconds of a call. A percentile is the smallest time that so many percent of the "
        "requests do not exceed, p50 of two so the faster; p95 and p99 marked `max` are the "
        "slowest of too few requests to tell. encode + wire + server + decode = mean; `to gRPC` "
        "compares p50.",
        "\n".join(_cases(result)),
        _steps_title(result),
        "\n".join(_steps(result)),
        machine_note(result["machine"]),
    ]
    return "\n\n".join(sections) + "\n"


def _overhead(result: Mapping[str, Any]) -> list[str]:
    rows = [
        "| pipeline | frame | cells | rounds | in process ms | gRPC ms | shared memory ms "
        "| overhead | with shared memory |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["overhead"]:
        rows.append(
            f"| {_served(row)} | {_frame(row)} | {row['cells']} | {row['requests']} "
            f"| {row['in_process_ms']:.1f} | {row['grpc_ms']:.1f} | {row['shared_memory_ms']:.1f} "
            f"| {_ratio(row, 'overhead')} | {_ratio(row, 'overhead_shared_memory')} |"
        )
    return rows


def _served(row: Mapping[str, Any]) -> str:
    variant = "" if row["variant"] == DEFAULT else f", variant `{row['variant']}`"
    return f"`{row['pipeline']}`{variant}"


def _ratio(row: Mapping[str, Any], name: str) -> str:
    low, high = row[f"{name}_interval"]
    return f"{row[name]:.2f} ({low:.2f} to {high:.2f})"


def _overhead_steps(result: Mapping[str, Any]) -> list[str]:
    rows = [
        "| pipeline | step | in process | served | queue | input | compute | output |",
        "|---|---|---|---|---|---|---|---|",
    ]
    parts = ("queue_ms", "input_ms", "compute_ms", "output_ms")
    for row in result["overhead_steps"]:
        outside = row.get("outside_ms")
        served = sum(row[part] for part in parts) if outside is None else outside
        name = row["step"] if outside is not None else f"`{row['step']}`"
        rows.append(
            f"| {_served(row)} | {name} | {row['in_process_ms']:.2f} | {served:.2f} "
            f"| {' | '.join(f'{row[part]:.2f}' if part in row else '' for part in parts)} |"
        )
    return rows


def _cases(result: Mapping[str, Any]) -> list[str]:
    rows = [
        "| pipeline | frame | cells | found | way | requests | p50 | p95 | p99 | to gRPC "
        "| encode | wire | server | decode |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    parts = ("encode_ms", "wire_ms", "server_ms", "decode_ms")
    for row in result["cases"]:
        rows.append(
            f"| `{row['pipeline']}` | {_frame(row)} | {row['cells']} | {row['found']} "
            f"| {row['way']} | {row['requests']} | {row['p50_ms']:.1f} | {_tail(row, 95)} "
            f"| {_tail(row, 99)} | {row['to_grpc']:.2f} "
            f"| {' | '.join(f'{row[part]:.1f}' for part in parts)} |"
        )
    return rows


def _tail(row: Mapping[str, Any], rank: int) -> str:
    return percentile_text(f"{row[f'p{rank}_ms']:.1f}", rank, row["requests"])


def _steps_title(result: Mapping[str, Any]) -> str:
    about = _shown_frame(result)
    return (
        "Milliseconds of a request inside the server, by Triton's statistics, on a frame of "
        f"{_frame(about)} with {about['cells']} cells; all frames are in the JSON file. Steps of "
        "one request may run at the same time."
    )


def _steps(result: Mapping[str, Any]) -> list[str]:
    rows = [
        "| pipeline | way | step | queue | input | compute | output |",
        "|---|---|---|---|---|---|---|",
    ]
    about = _shown_frame(result)
    for row in result["steps"]:
        if _kind(row) == _kind(about):
            rows.append(
                f"| `{row['pipeline']}` | {row['way']} | `{row['step']}` | {row['queue_ms']:.2f} "
                f"| {row['input_ms']:.2f} | {row['compute_ms']:.2f} | {row['output_ms']:.2f} |"
            )
    return rows


def _shown_frame(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """The frame that overhead is told of where it was measured; else the first one."""
    rows: Sequence[Mapping[str, Any]] = result["steps"]
    wanted = [_kind(row) for row in result["overhead"]]
    return next((row for row in rows if _kind(row) in wanted), rows[0])


def _kind(row: Mapping[str, Any]) -> tuple[int, int, int]:
    return row["width"], row["height"], row["cells"]


def _frame(row: Mapping[str, Any]) -> str:
    return f"{row['width']}x{row['height']}"
