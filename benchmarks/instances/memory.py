"""How much memory one request for instances takes, in client and server together."""

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
"""Of the frame, in pixels."""

COUNTS = (1, 500)
"""Boxes of a request."""

Image = npt.NDArray[Any]


@dataclass(frozen=True)
class RequestMemory:
    """One request on a square frame."""

    request: str
    side: int
    """Of the frame, in pixels."""
    peak_bytes: int
    """Most of this process, launcher, Triton and workers; shared pages count once."""
    added_bytes: int
    """Of that, above where all stood before the first request."""


def measure_memory(client: Client, image: Image) -> list[RequestMemory]:
    """Send each request once, from the smallest, to a server that is a child of this process."""
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
    """Float32 ``[count, 4]``, (x0, y0, x1, y1): boxes side by side, spread over a square frame."""
    columns = int(np.ceil(np.sqrt(count)))
    rows, places = np.divmod(np.arange(count), columns)
    corners = np.stack([places, rows, places + 1, rows + 1], axis=1).astype(np.float32)
    boxes: npt.NDArray[np.float32] = corners * np.float32(side / columns)
    return boxes
