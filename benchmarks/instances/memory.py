"""Measures the memory of one request for instances, in client and server together."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.harness.memory import PeakMemory, resident_bytes
from benchmarks.instances.tables import NAMES
from cytoserve import Client, Prompts

SIDE = 2048
"""Side of the square frame in pixels."""

COUNTS = (1, 500)
"""Numbers of boxes per prompted request."""

Image = npt.NDArray[Any]


@dataclass(frozen=True)
class RequestMemory:
    """Memory of one request on a square frame."""

    request: str
    side: int
    """Side of the frame in pixels."""
    peak_bytes: int
    """Peak of this process, launcher, Triton and workers together; shared pages count once."""
    added_bytes: int
    """Part of the peak above the memory before the first request."""


def measure_memory(client: Client, image: Image) -> list[RequestMemory]:
    """Send each request once, smallest first, to a server that is a child of this process."""
    frame = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)

    def segment(name: str) -> Callable[[], object]:
        return lambda: client.segment(frame, name)

    def prompt(count: int) -> Callable[[], object]:
        boxes = grid_boxes(count, SIDE)
        return lambda: client.prompt(frame, Prompts(boxes=boxes))

    requests: Mapping[str, Callable[[], object]] = {
        **{f"`sam_prompt`, {count} boxes": prompt(count) for count in COUNTS},
        **{f"`{name}`": segment(name) for name in NAMES},
    }
    before = resident_bytes(os.getpid())
    figures = []
    for name, request in requests.items():
        with PeakMemory(os.getpid()) as memory:
            request()
        figures.append(RequestMemory(name, SIDE, memory.peak, memory.peak - before))
    return figures


def grid_boxes(count: int, side: int) -> npt.NDArray[np.float32]:
    """Return boxes side by side on a square frame: float32 ``[count, 4]``, (x0, y0, x1, y1)."""
    columns = int(np.ceil(np.sqrt(count)))
    rows, places = np.divmod(np.arange(count), columns)
    corners = np.stack([places, rows, places + 1, rows + 1], axis=1).astype(np.float32)
    boxes: npt.NDArray[np.float32] = corners * np.float32(side / columns)
    return boxes
