"""Seconds of a semantic pipeline: the server, the same graphs without it, the study's way."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.timing import in_turn
from cytoserve import Client
from cytoserve.contract import PIPELINES
from export.chain import Chain
from export.foreground_parity import foreground_inputs, white_level_of

Image = npt.NDArray[Any]
Way = Callable[[Image], object]


@dataclass(frozen=True)
class Speed:
    """Medians over the frames, end to end, from the camera frame as an array."""

    served: float
    """Seconds through the server."""
    in_process: float
    """Seconds of the same ONNX graphs in this process, with all its cores."""
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


def in_process(repository: Path, pipeline: str) -> Way:
    """A semantic pipeline as graphs in this process."""
    chain = Chain(repository, pipeline)
    names = [tensor.name for tensor in PIPELINES[pipeline].outputs]

    def run(image: Image) -> object:
        camera = np.atleast_3d(image).astype(np.uint16)
        return chain.run(foreground_inputs(pipeline, camera, white_level_of(image)), names)

    return run


def measure_speed(
    client: Client,
    repository: Path,
    pipeline: str,
    torch_way: Way,
    frames: Sequence[Image],
    repeats: int,
) -> Speed:
    """Time the three ways in turn, frame by frame, so that a busy moment hits them all."""
    ways: Mapping[str, Way] = {
        "served": lambda image: client.foreground(image, pipeline),
        "in_process": in_process(repository, pipeline),
        "torch": torch_way,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for image in frames:
        bound = {name: _bind(way, image) for name, way in ways.items()}
        for name, times in in_turn(bound, repeats).items():
            seconds[name].append(statistics.median(times))
    return Speed(**{name: statistics.median(times) for name, times in seconds.items()})


def _bind(way: Way, image: Image) -> Callable[[], object]:
    return lambda: way(image)


def speed_table(speed: Mapping[str, float]) -> list[str]:
    """Lines of a Markdown table of :meth:`Speed.figures`."""
    return [
        "| served s | in process s | overhead | PyTorch eager s | speedup |",
        "|---|---|---|---|---|",
        f"| {speed['served']:.3f} | {speed['in_process']:.3f} | {speed['overhead']:.2f} "
        f"| {speed['torch']:.3f} | {speed['speedup']:.2f} |",
    ]
