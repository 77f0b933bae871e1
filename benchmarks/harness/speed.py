"""Compares the speed of a served pipeline with its graphs alone, and with the study's way."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from benchmarks.harness.results import table_of
from benchmarks.harness.timing import time_interleaved

Image = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Median seconds over the frames, end to end, from the camera frame as an array."""

    served: float
    """Seconds through the server."""
    in_process: float
    """Seconds of the same ONNX graphs in this process, asked by the same client."""
    study: float
    """Seconds of the same weights as the study ran them, in PyTorch."""

    @property
    def overhead(self) -> float:
        """Overhead of the server: served / in process."""
        return self.served / self.in_process

    @property
    def speedup(self) -> float:
        """Speedup over the study's way: study / served."""
        return self.study / self.served


def measure_speed(
    bind: Callable[[Image], Mapping[str, Callable[[], object]]],
    frames: Iterable[Image],
    repeats: int,
) -> Speed:
    """Time all three, interleaved frame by frame, so that other load hits them alike.

    Args:
        bind: function from a frame to calls without arguments, by the names of `Speed`'s fields.
            What it does itself is not timed.
        frames: camera frames.
        repeats: timed rounds per frame.
    """
    seconds: dict[str, list[float]] = defaultdict(list)
    for image in frames:
        for name, times in time_interleaved(bind(image), repeats).items():
            seconds[name].append(statistics.median(times))
    return Speed(**{name: statistics.median(times) for name, times in seconds.items()})


def speed_table(speeds: Mapping[str, Speed]) -> str:
    """Return pipeline -> speed as a Markdown table."""
    return table_of(
        speeds.items(),
        {
            "pipeline": lambda item: f"`{item[0]}`",
            "served s": lambda item: f"{item[1].served:.3f}",
            "in process s": lambda item: f"{item[1].in_process:.3f}",
            "overhead": lambda item: f"{item[1].overhead:.2f}",
            "the study's way s": lambda item: f"{item[1].study:.3f}",
            "speedup": lambda item: f"{item[1].speedup:.2f}",
        },
    )
