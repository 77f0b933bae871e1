"""Speed and pictures of semantic pipelines."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy.typing as npt

from benchmarks.harness.in_process import InProcess
from benchmarks.harness.timing import time_interleaved
from cytoserve import Client, Foreground
from cytoserve.overlay import draw_foreground

Image = npt.NDArray[Any]
Way = Callable[[Image], object]


@dataclass(frozen=True)
class Speed:
    """Medians over the frames, end to end, from the camera frame as an array."""

    served: float
    """Seconds through the server."""
    in_process: float
    """Seconds of the same ONNX graphs in this process, asked by the same client."""
    torch: float
    """Seconds of the same weights the way the study ran them, in PyTorch eager mode."""

    @property
    def overhead(self) -> float:
        """What the server adds: served / in process."""
        return self.served / self.in_process

    @property
    def speedup(self) -> float:
        """How many times faster than PyTorch: torch / served."""
        return self.torch / self.served

    def figures(self) -> dict[str, float]:
        """Seconds and ratios by name."""
        return {**vars(self), "overhead": self.overhead, "speedup": self.speedup}


def measure_speed(
    client: Client,
    repository: Path,
    pipeline: str,
    torch_way: Way,
    frames: Sequence[Image],
    repeats: int,
) -> Speed:
    """Time the three ways in turn, frame by frame, so that a busy moment hits them all."""
    seconds: dict[str, list[float]] = {}
    with Client(transport=InProcess(repository, [pipeline])) as alone:
        ways: Mapping[str, Way] = {
            "served": lambda image: client.foreground(image, pipeline),
            "in_process": lambda image: alone.foreground(image, pipeline),
            "torch": torch_way,
        }
        for image in frames:
            bound = {name: partial(way, image) for name, way in ways.items()}
            for name, times in time_interleaved(bound, repeats).items():
                seconds.setdefault(name, []).append(statistics.median(times))
    return Speed(**{name: statistics.median(times) for name, times in seconds.items()})


def speed_table(speed: Mapping[str, float]) -> list[str]:
    """Lines of a Markdown table of :meth:`Speed.figures`."""
    return [
        "| served s | in process s | overhead | PyTorch eager s | speedup |",
        "|---|---|---|---|---|",
        f"| {speed['served']:.3f} | {speed['in_process']:.3f} | {speed['overhead']:.2f} "
        f"| {speed['torch']:.3f} | {speed['speedup']:.2f} |",
    ]


def save_pictures(
    folder: Path, name: str, frame: npt.NDArray[Any], foreground: Foreground
) -> tuple[Path, Path]:
    """Write ``NAME_overlay.png`` and ``NAME_probability.png`` (8-bit grey, at the frame's size).

    Raises:
        OSError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    overlay, probability = folder / f"{name}_overlay.png", folder / f"{name}_probability.png"
    pictures = {overlay: draw_foreground(frame, foreground)[:, :, ::-1]}  # cv2 is BGR
    for file, picture in {**pictures, probability: foreground.probability}.items():
        if not cv2.imwrite(str(file), picture):
            raise OSError(f"{file} could not be written; is the disk full?")
    return overlay, probability
