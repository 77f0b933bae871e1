"""Measures seconds and memory of a server as frames, clients and pipelines grow."""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness.load import Case, ask, asked, count_answered
from benchmarks.harness.memory import PeakMemory, resident_bytes
from benchmarks.harness.timing import time_interleaved
from cytoserve import Client
from cytoserve.contract import CROP_PROBS, CROPS
from export.graphs.files import open_session
from export.parity.chain import newest_graph
from export.resnet.network import CLASSIFIER_CHUNK
from server.embedded import EmbeddedServer

DEADLINE = 600.0
"""Maximum seconds per frame, and for the server's start."""

MOST = 30
"""Maximum requests of one kind: more would only sharpen the last digit."""

RARELY = 0.25
"""Seconds between two samples of memory while time is measured."""

MB = 1e6
"""Bytes per megabyte."""

CLASSIFIER = "resnet50_cells"
ONE_STEP, TWO_STEPS = "yolo", "yolo_resnet"
"""Pipelines that differ by the classifier `CLASSIFIER`."""

Rows = list[dict[str, Any]]


def grow_frames(
    server: EmbeddedServer, pipeline: str, cases: Sequence[Case], *, seconds: float, fewest: int
) -> Rows:
    """Send frames in their order to a server that has not answered any before.

    Memory is that of the first request of a kind, above the server's memory before all frames. A
    server releases little, so memory is given only for frames that are larger than all before, in
    pixels and in cells. For the others it is None.
    """
    rows: Rows = []
    with Client(server.url, timeout=DEADLINE) as client:
        before = resident_bytes(server.pid)
        for case in asked(pipeline, cases):
            frame = case.frame()
            with PeakMemory(server.pid) as memory:
                answer, _ = timed(partial(ask, client, pipeline, frame))
            largest = all(
                case.megapixels >= row["megapixels"] and case.cells >= row["cells"] for row in rows
            )
            call = partial(ask, client, pipeline, frame)
            times = repeated(call, seconds=seconds, fewest=fewest)
            rows.append(
                {
                    "pipeline": pipeline,
                    "width": case.width,
                    "height": case.height,
                    "megapixels": case.megapixels,
                    "cells": case.cells,
                    "found": count_answered(answer),
                    "requests": len(times),
                    "p50_ms": statistics.median(times) * 1e3,
                    "peak_mb": (memory.peak - before) / MB if largest else None,
                }
            )
    return rows


def grow_clients(
    server: EmbeddedServer,
    pipeline: str,
    counts: Sequence[int],
    case: Case,
    *,
    seconds: float,
) -> Rows:
    """Let growing numbers of clients, each with a connection, send one kind of frame at once.

    Memory is above that after one request. It is sampled rarely, which costs little time.
    """
    frame = case.frame()
    rows: Rows = []
    with ExitStack() as stack:
        clients = [
            stack.enter_context(Client(server.url, timeout=DEADLINE)) for _ in range(max(counts))
        ]
        for client in clients:
            client.card(pipeline)
        ask(clients[0], pipeline, frame)
        _, alone = timed(partial(ask, clients[0], pipeline, frame))
        before = resident_bytes(server.pid)
        for count in counts:
            requests = min(MOST, max(1, math.ceil(seconds / alone / count)))
            calls = [partial(ask, client, pipeline, frame) for client in clients[:count]]
            with PeakMemory(server.pid, RARELY) as memory:
                times, elapsed = at_once(calls, requests)
            rows.append(
                {
                    "pipeline": pipeline,
                    "width": case.width,
                    "height": case.height,
                    "cells": case.cells,
                    "clients": count,
                    "requests": len(times),
                    "p50_ms": statistics.median(times) * 1e3,
                    "frames_per_second": len(times) / elapsed,
                    "peak_mb": (memory.peak - before) / MB,
                }
            )
    return rows


def at_once(calls: Sequence[Callable[[], object]], repeats: int) -> tuple[list[float], float]:
    """Repeat every call in its own thread; return the seconds of each run, and of all."""
    begin = threading.Barrier(len(calls) + 1)

    def repeat(call: Callable[[], object]) -> list[float]:
        begin.wait()
        return [timed(call)[1] for _ in range(repeats)]

    with ThreadPoolExecutor(len(calls)) as pool:
        runs = [pool.submit(repeat, call) for call in calls]
        begin.wait()
        start = time.perf_counter()
        times = [seconds for run in runs for seconds in run.result()]
        return times, time.perf_counter() - start


def load_pipelines(repository: Path, pipelines: Sequence[str]) -> Rows:
    """Start a server with the first pipeline, the first two, and so on; measure time and memory."""
    rows: Rows = []
    for count in range(1, len(pipelines) + 1):
        start = time.perf_counter()
        with EmbeddedServer(repository, pipelines[:count], timeout=DEADLINE) as server:
            started = time.perf_counter() - start
            memory = resident_bytes(server.pid)
        rows.append(
            {
                "pipelines": count,
                "with": pipelines[count - 1],
                "start_s": started,
                "memory_mb": memory / MB,
            }
        )
    return rows


def grow_classified(
    server: EmbeddedServer, cases: Sequence[Case], *, seconds: float, fewest: int
) -> Rows:
    """Interleave `yolo`, `yolo_resnet`, and classifying as many crops in this process.

    The classifier alone is its graph, with all cores. The number of crops is rounded up to full
    chunks of the size that it takes at once.
    """
    file = newest_graph(server.repository / CLASSIFIER)
    assert file is not None  # the pipeline is exported
    classifier = open_session(file)
    random = np.random.default_rng(0)
    rows: Rows = []
    pipelines = (ONE_STEP, TWO_STEPS)
    with Client(server.url, timeout=DEADLINE) as client:
        for case in cases:
            frame = case.frame()
            found, alone = {}, 0.0
            for name in pipelines:
                answer, alone = timed(partial(ask, client, name, frame))
                found[name] = count_answered(answer)
            count = CLASSIFIER_CHUNK * max(1, math.ceil(found[TWO_STEPS] / CLASSIFIER_CHUNK))
            crops = random.integers(0, 256, (count, *CROPS.dims), np.uint8)
            calls: Mapping[str, Callable[[], object]] = {
                **{name: partial(ask, client, name, frame) for name in pipelines},
                CLASSIFIER: partial(classifier.run, [CROP_PROBS.name], {CROPS.name: crops}),
            }
            times = time_interleaved(calls, min(MOST, max(fewest, math.ceil(seconds / alone))))
            medians = {name: statistics.median(each) * 1e3 for name, each in times.items()}
            rows.append(
                {
                    "width": case.width,
                    "height": case.height,
                    "cells": case.cells,
                    **{f"found_{name}": count for name, count in found.items()},
                    **{f"{name}_ms": medians[name] for name in pipelines},
                    "cost_of_classes": medians[TWO_STEPS] / medians[ONE_STEP],
                    "classifier_crops": count,
                    "classifier_ms": medians[CLASSIFIER],
                    "requests": len(times[TWO_STEPS]),
                }
            )
    return rows


def repeated(call: Callable[[], object], *, seconds: float, fewest: int) -> list[float]:
    """Repeat a call until ``seconds`` are used, at least ``fewest`` times; return its seconds."""
    times: list[float] = []
    while len(times) < fewest or (sum(times) < seconds and len(times) < MOST):
        times.append(timed(call)[1])
    return times


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result of a call, and its seconds."""
    start = time.perf_counter()
    answer = call()
    return answer, time.perf_counter() - start
