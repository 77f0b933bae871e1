"""The result of `benchmarks.latency` as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.harness.markdown import markdown_table
from benchmarks.harness.results import machine_note
from benchmarks.harness.serving import DEFAULT
from benchmarks.harness.timing import percentile_text

Row = Mapping[str, Any]

STEP_PARTS = ("queue", "input", "compute", "output")
CALL_PARTS = ("encode", "wire", "server", "decode")


def latency_table(result: Mapping[str, Any]) -> str:
    """Return all tables: overhead, every frame, and the steps of the first kind of frame."""
    sections = [
        "What the server adds: seconds through it / seconds of the same graphs in the client's "
        "process in the same round, the median of all rounds, with its 95 % confidence interval. "
        "Milliseconds are medians of their own.",
        _overhead(result["overhead"]),
        "Where that goes: mean milliseconds of every step, in this process and in the server, of "
        "the same rounds; half of the server's requests came through shared memory. Steps of one "
        "request may run at the same time. A merged step is compared with all that it joins.",
        markdown_table(
            ["pipeline", "step", "in process", "served", *STEP_PARTS],
            [_overhead_step(row) for row in result["overhead_steps"]],
        ),
        "Milliseconds of a call. A percentile is the smallest time that so many percent of the "
        "requests do not exceed, p50 of two so the faster; p95 and p99 marked `max` are the "
        "slowest of too few requests to tell. encode + wire + server + decode = mean; `to gRPC` "
        "compares p50.",
        _cases(result["cases"]),
        _steps_title(result),
        _steps(result),
        machine_note(result["machine"]),
    ]
    return "\n\n".join(sections) + "\n"


def _overhead(rows: Sequence[Row]) -> str:
    return markdown_table(
        [
            *("pipeline", "frame", "cells", "rounds", "in process ms", "gRPC ms"),
            *("shared memory ms", "overhead", "with shared memory"),
        ],
        [
            [
                *(_served(row), _frame(row), f"{row['cells']}", f"{row['requests']}"),
                *(f"{row[f'{name}_ms']:.1f}" for name in ("in_process", "grpc", "shared_memory")),
                *(_ratio(row, name) for name in ("overhead", "overhead_shared_memory")),
            ]
            for row in rows
        ],
    )


def _served(row: Row) -> str:
    variant = "" if row["variant"] == DEFAULT else f", variant `{row['variant']}`"
    return f"`{row['pipeline']}`{variant}"


def _ratio(row: Row, name: str) -> str:
    low, high = row[f"{name}_interval"]
    return f"{row[name]:.2f} ({low:.2f} to {high:.2f})"


def _overhead_step(row: Row) -> list[str]:
    parts = [row[f"{part}_ms"] for part in STEP_PARTS if f"{part}_ms" in row]
    return [
        _served(row),
        row["step"] if "outside_ms" in row else f"`{row['step']}`",
        f"{row['in_process_ms']:.2f}",
        f"{row.get('outside_ms', sum(parts)):.2f}",
        *([f"{part:.2f}" for part in parts] or [""] * len(STEP_PARTS)),
    ]


def _cases(rows: Sequence[Row]) -> str:
    return markdown_table(
        [
            *("pipeline", "frame", "cells", "found", "way", "requests", "p50", "p95", "p99"),
            *("to gRPC", *CALL_PARTS),
        ],
        [
            [
                *(f"`{row['pipeline']}`", _frame(row), f"{row['cells']}", f"{row['found']}"),
                *(row["way"], f"{row['requests']}", f"{row['p50_ms']:.1f}"),
                *(_tail(row, 95), _tail(row, 99), f"{row['to_grpc']:.2f}"),
                *(f"{row[f'{part}_ms']:.1f}" for part in CALL_PARTS),
            ]
            for row in rows
        ],
    )


def _tail(row: Row, rank: int) -> str:
    return percentile_text(f"{row[f'p{rank}_ms']:.1f}", rank, row["requests"])


def _steps_title(result: Mapping[str, Any]) -> str:
    about = _shown_frame(result)
    return (
        "Milliseconds of a request inside the server, by Triton's statistics, on a frame of "
        f"{_frame(about)} with {about['cells']} cells; all frames are in the JSON file. Steps of "
        "one request may run at the same time."
    )


def _steps(result: Mapping[str, Any]) -> str:
    shown = _kind(_shown_frame(result))
    return markdown_table(
        ["pipeline", "way", "step", *STEP_PARTS],
        [
            [
                *(f"`{row['pipeline']}`", row["way"], f"`{row['step']}`"),
                *(f"{row[f'{part}_ms']:.2f}" for part in STEP_PARTS),
            ]
            for row in result["steps"]
            if _kind(row) == shown
        ],
    )


def _shown_frame(result: Mapping[str, Any]) -> Row:
    """Return the frame of the overhead where its steps were measured, or else the first one."""
    rows: Sequence[Row] = result["steps"]
    wanted = [_kind(row) for row in result["overhead"]]
    return next((row for row in rows if _kind(row) in wanted), rows[0])


def _kind(row: Row) -> tuple[int, int, int]:
    return row["width"], row["height"], row["cells"]


def _frame(row: Row) -> str:
    return f"{row['width']}x{row['height']}"
