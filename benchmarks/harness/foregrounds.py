"""Measures the speed of semantic pipelines and draws their answers."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy.typing as npt

from benchmarks.harness.in_process import InProcess
from benchmarks.harness.markdown import markdown_table
from benchmarks.harness.pictures import write_picture
from benchmarks.harness.timing import time_interleaved
from cytoserve import Client, Foreground
from cytoserve.overlay import draw_foreground

Image = npt.NDArray[Any]
Segmentation = Callable[[Image], object]


@dataclass(frozen=True)
class Speed:
    """Median seconds over the frames, end to end, from the camera frame as an array."""

    served: float
    """Seconds through the server."""
    in_process: float
    """Seconds of the same ONNX graphs in this process, asked by the same client."""
    torch: float
    """Seconds of the same weights as the study ran them, in PyTorch eager mode."""

    @property
    def overhead(self) -> float:
        """Overhead of the server: served / in process."""
        return self.served / self.in_process

    @property
    def speedup(self) -> float:
        """Speedup over PyTorch: torch / served."""
        return self.torch / self.served

    def figures(self) -> dict[str, float]:
        """Return seconds and ratios by name."""
        return {**vars(self), "overhead": self.overhead, "speedup": self.speedup}


def measure_speed(
    client: Client,
    repository: Path,
    pipeline: str,
    torch: Segmentation,
    frames: Sequence[Image],
    repeats: int,
) -> Speed:
    """Time all three, interleaved frame by frame, so that other load hits them alike."""
    seconds: dict[str, list[float]] = {}
    with Client(transport=InProcess(repository, [pipeline])) as alone:
        contenders: Mapping[str, Segmentation] = {
            "served": lambda image: client.foreground(image, pipeline),
            "in_process": lambda image: alone.foreground(image, pipeline),
            "torch": torch,
        }
        for image in frames:
            bound = {name: partial(run, image) for name, run in contenders.items()}
            for name, times in time_interleaved(bound, repeats).items():
                seconds.setdefault(name, []).append(statistics.median(times))
    return Speed(**{name: statistics.median(times) for name, times in seconds.items()})


def speed_table(speed: Mapping[str, float]) -> str:
    """Return `Speed.figures` as a Markdown table."""
    cells = [
        *(f"{speed['served']:.3f}", f"{speed['in_process']:.3f}", f"{speed['overhead']:.2f}"),
        *(f"{speed['torch']:.3f}", f"{speed['speedup']:.2f}"),
    ]
    head = ["served s", "in process s", "overhead", "PyTorch eager s", "speedup"]
    return markdown_table(head, [cells])


def save_pictures(
    folder: Path, name: str, frame: npt.NDArray[Any], foreground: Foreground
) -> tuple[Path, Path]:
    """Write ``NAME_overlay.png`` and ``NAME_probability.png`` (8-bit grey, at the frame's size).

    Raises:
        OSError: a file cannot be written.
    """
    overlay, probability = folder / f"{name}_overlay.png", folder / f"{name}_probability.png"
    write_picture(overlay, draw_foreground(frame, foreground))
    write_picture(probability, foreground.probability)
    return overlay, probability
