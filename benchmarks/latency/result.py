"""The result of `benchmarks.latency`: its figures, bounds and page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.harness.bounds import Bound, Figures
from benchmarks.harness.results import FrameRow, Result, machine_note, table_of
from benchmarks.harness.timing import percentile_text
from cytoserve.contract import SINGLE_GRAPH
from server.variants import DEFAULT


@dataclass(frozen=True, kw_only=True)
class CaseRow(FrameRow):
    """Calls of one client with one kind of frame through one transport, in milliseconds."""

    way: str
    """Name of the transport."""
    found: int
    """Number of cells, or centres, in the answer."""
    requests: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    mean_ms: float
    encode_ms: float
    """Mean from the camera's array to the request's tensors."""
    wire_ms: float
    """Mean of the rest: messages or shared memory, gRPC, waking up of both processes."""
    server_ms: float
    """Mean from the request's arrival at Triton until Triton releases it."""
    decode_ms: float
    """Mean from the answer's tensors to cells or foreground."""
    request_bytes: int
    answer_bytes: int
    to_grpc: float
    """p50 / p50 through gRPC."""


@dataclass(frozen=True, kw_only=True)
class StepRow(FrameRow):
    """Mean milliseconds of a request that one step took in the server."""

    way: str
    step: str
    queue_ms: float
    input_ms: float
    compute_ms: float
    output_ms: float
    executions: float
    """Runs of the step per request."""


@dataclass(frozen=True, kw_only=True)
class OverheadRow(FrameRow):
    """The server beside the same graphs in the client's process: medians and their ratios."""

    variant: str
    """Variant that is served; the graphs in this process are the default's."""
    requests: int
    """Number of rounds."""
    grpc_ms: float
    shared_memory_ms: float
    in_process_ms: float
    overhead: float
    """Median over rounds of served / in process."""
    overhead_interval: tuple[float, float]
    """Low and high end of its 95 % confidence interval."""
    overhead_shared_memory: float
    overhead_shared_memory_interval: tuple[float, float]

    @property
    def served(self) -> str:
        """Pipeline and variant as Markdown."""
        return f"`{self.pipeline}`" + (
            "" if self.variant == DEFAULT else f", variant `{self.variant}`"
        )


@dataclass(frozen=True, kw_only=True)
class LatencyResult(Result):
    """Latency of one client."""

    seconds: float
    """Seconds of requests per case and transport."""
    fewest: int
    overhead_seconds: float
    """Seconds of interleaved requests per pipeline."""
    cases: tuple[CaseRow, ...]
    steps: tuple[StepRow, ...]
    overhead: tuple[OverheadRow, ...]


def _overheads(
    variant: str, figure: Callable[[OverheadRow], float]
) -> Callable[[LatencyResult], Figures]:
    return lambda result: (
        (row.pipeline, figure(row)) for row in result.overhead if row.variant == variant
    )


BOUNDS: tuple[Bound[LatencyResult], ...] = tuple(
    Bound(f"Overhead of the server{title}", ratio, "<=", 1.1, _overheads(variant, figure))
    for title, ratio, variant, figure in (
        (
            "",
            "served through gRPC / the same graphs in process, every pipeline at 1024 x 1024",
            DEFAULT,
            lambda row: row.overhead,
        ),
        (
            ", shared memory",
            "the same, with frames in shared memory",
            DEFAULT,
            lambda row: row.overhead_shared_memory,
        ),
        (
            ", variant `single-graph`",
            "served through gRPC / the graphs that it joins in process",
            SINGLE_GRAPH,
            lambda row: row.overhead,
        ),
        (
            ", variant `single-graph`, shared memory",
            "the same, with frames in shared memory",
            SINGLE_GRAPH,
            lambda row: row.overhead_shared_memory,
        ),
    )
)


def latency_page(result: LatencyResult) -> str:
    """Return all tables: overhead, every frame, and the steps of the first kind of frame."""
    shown = _shown_steps(result)
    sections = [
        "What the server adds: seconds through it / seconds of the same graphs in the client's "
        "process in the same round, the median of all rounds, with its 95 % confidence interval. "
        "Milliseconds are medians of their own.",
        _overhead_table(result.overhead),
        "Milliseconds of a call. A percentile is the smallest time that so many percent of the "
        "requests do not exceed, p50 of two so the faster; p95 and p99 marked `max` are the "
        "slowest of too few requests to tell. encode + wire + server + decode = mean; `to gRPC` "
        "compares p50.",
        _cases_table(result.cases),
        "Milliseconds of a request inside the server, by Triton's statistics, on a frame of "
        f"{shown[0].size} with {shown[0].cells} cells; all frames are in the JSON file. Steps of "
        "one request may run at the same time.",
        _steps_table(shown),
        machine_note(result.machine),
    ]
    return "\n\n".join(sections) + "\n"


def _overhead_table(rows: Sequence[OverheadRow]) -> str:
    return table_of(
        rows,
        {
            "pipeline": lambda row: row.served,
            "frame": lambda row: row.size,
            "cells": lambda row: f"{row.cells}",
            "rounds": lambda row: f"{row.requests}",
            "in process ms": lambda row: f"{row.in_process_ms:.1f}",
            "gRPC ms": lambda row: f"{row.grpc_ms:.1f}",
            "shared memory ms": lambda row: f"{row.shared_memory_ms:.1f}",
            "overhead": lambda row: _ratio_text(row.overhead, row.overhead_interval),
            "with shared memory": lambda row: _ratio_text(
                row.overhead_shared_memory, row.overhead_shared_memory_interval
            ),
        },
    )


def _ratio_text(ratio: float, interval: tuple[float, float]) -> str:
    low, high = interval
    return f"{ratio:.2f} ({low:.2f} to {high:.2f})"


def _cases_table(rows: Sequence[CaseRow]) -> str:
    return table_of(
        rows,
        {
            "pipeline": lambda row: f"`{row.pipeline}`",
            "frame": lambda row: row.size,
            "cells": lambda row: f"{row.cells}",
            "found": lambda row: f"{row.found}",
            "way": lambda row: row.way,
            "requests": lambda row: f"{row.requests}",
            "p50": lambda row: f"{row.p50_ms:.1f}",
            "p95": lambda row: percentile_text(f"{row.p95_ms:.1f}", 95, row.requests),
            "p99": lambda row: percentile_text(f"{row.p99_ms:.1f}", 99, row.requests),
            "to gRPC": lambda row: f"{row.to_grpc:.2f}",
            "encode": lambda row: f"{row.encode_ms:.1f}",
            "wire": lambda row: f"{row.wire_ms:.1f}",
            "server": lambda row: f"{row.server_ms:.1f}",
            "decode": lambda row: f"{row.decode_ms:.1f}",
        },
    )


def _steps_table(rows: Sequence[StepRow]) -> str:
    return table_of(
        rows,
        {
            "pipeline": lambda row: f"`{row.pipeline}`",
            "way": lambda row: row.way,
            "step": lambda row: f"`{row.step}`",
            "queue": lambda row: f"{row.queue_ms:.2f}",
            "input": lambda row: f"{row.input_ms:.2f}",
            "compute": lambda row: f"{row.compute_ms:.2f}",
            "output": lambda row: f"{row.output_ms:.2f}",
        },
    )


def _shown_steps(result: LatencyResult) -> list[StepRow]:
    """Return the steps on the frame of the overhead, or else on the first one that was measured."""
    wanted = {(row.size, row.cells) for row in result.overhead}
    found = [(row.size, row.cells) for row in result.steps]
    shown = next((kind for kind in found if kind in wanted), found[0])
    return [row for row, kind in zip(result.steps, found, strict=True) if kind == shown]
