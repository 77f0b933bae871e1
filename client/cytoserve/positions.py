"""The positions of an image file: each is a grid of planes over time, z and channel.

An OME image, a scene of a slide and a field of a plate are positions. A plain image is one position
with one plane. Numbers count from 0, as OME does.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoserve.errors import UnreadableImage

MAX_PLANES = 1_000_000
"""Maximum number of planes of a file."""

Load = Callable[[int, int, int], NDArray[Any]]
"""Reads the plane at a time, z and channel, as stored: ``[H, W]`` or ``[H, W, 3]``."""


def refused(given: str, remedy: str) -> UnreadableImage:
    """Return the error for a file that holds no frame that can be read."""
    return UnreadableImage(f"A file must hold one whole frame; given: {given}. {remedy}")


def check_planes(planes: int) -> None:
    """Check how many planes a file claims.

    Raises:
        UnreadableImage: there are more than `MAX_PLANES`.
    """
    if planes > MAX_PLANES:
        raise refused(
            f"a file that claims {planes:,} planes, more than {MAX_PLANES:,}",
            "Check it, or divide it.",
        )


def lacks_none(time: int, z: int, channel: int) -> bool:
    """Tell that the file has the plane at a time, z and channel: the ordinary case."""
    return False


@dataclass(frozen=True)
class Place:
    """Where a plane is in its file.

    Attributes:
        position, time, channel: numbers from 0.
        z: number from 0; None is the maximum over all z.
    """

    position: int = 0
    time: int = 0
    z: int | None = 0
    channel: int = 0


@dataclass(frozen=True)
class Position:
    """One position of an image file.

    Attributes:
        name: the file's name for it, or empty.
        times, depth: number of time points and of z planes.
        channels: names of the channels; empty strings if the file has none.
        shape: shape of every plane, ``(H, W)`` or ``(H, W, 3)``.
        dtype: dtype of every plane as stored.
        pixel_size_um: side of a pixel along x in micrometres; None if the file does not tell it.
        load: reads one plane.
        lacks: tells whether the file has no such plane; some programs stop before the end.
    """

    name: str
    times: int
    depth: int
    channels: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    pixel_size_um: float | None
    load: Load
    lacks: Callable[[int, int, int], bool] = lacks_none

    @property
    def planes(self) -> int:
        """Number of planes."""
        return self.times * self.depth * len(self.channels)


@dataclass(frozen=True)
class OpenImage:
    """An open image file and its positions, of which there is at least one.

    Close it, or use it as a context manager.

    Attributes:
        path: the file or folder.
        positions: its positions, in the file's order.
        is_one_file: whether its bytes are those of one file, so that a hash of the file names it.
    """

    path: Path
    positions: tuple[Position, ...]
    is_one_file: bool = True
    _opened: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        try:
            check_planes(self.planes)
        except UnreadableImage:
            self.close()
            raise

    def __enter__(self) -> OpenImage:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._opened.close()

    @property
    def planes(self) -> int:
        """Number of planes of all positions."""
        return sum(position.planes for position in self.positions)

    def label(self, place: Place) -> str:
        """Return a place as part of a file's name, such as ``t003_z02``.

        Only the axes of which the file has more than one are named. Numbers have as many digits as
        the largest of them, so that names sort.
        """
        times = max(position.times for position in self.positions)
        depth = max(position.depth for position in self.positions)
        channels = max(len(position.channels) for position in self.positions)
        parts = [
            _numbered("p", place.position, len(self.positions), 2),
            _numbered("t", place.time, times, 3),
            _numbered("z", place.z, depth, 2),
            _numbered("c", place.channel, channels, 1),
        ]
        return "_".join(part for part in parts if part)


def _numbered(letter: str, number: int | None, count: int, digits: int) -> str:
    if count == 1:
        return ""
    if number is None:
        return f"{letter}max"
    return f"{letter}{number:0{max(digits, len(str(count - 1)))}d}"
