"""Read the planes of an image file, one at a time: time points, z planes, channels, positions.

::

    for plane in read_planes("stack.ome.tif", channel="DAPI", z="max"):
        cells = client.segment(plane.frame, "nuclei")

The memory is that of one plane, whatever the length of the file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoserve.errors import InvalidSetting
from cytoserve.frames import ONE_REQUEST, FrameLimits
from cytoserve.image_files import naming, open_image, read_plane
from cytoserve.positions import OpenImage, Place, Position

MAXIMUM = "max"
"""Value of ``z`` that takes the maximum over all z planes."""

EACH = "each"
"""Value of an axis that takes all its planes, one after the other."""

Pick = int | str | Sequence[int | str] | None
"""Which numbers or names of an axis: one, several, ``"each"``, or None for the default."""


@dataclass(frozen=True)
class Plane:
    """One plane of an image file.

    Attributes:
        path: the file.
        place: where the plane is in the file.
        label: the place as part of a file's name, such as ``t003_z02``; empty for the only plane.
        position_name, channel_name: the file's names; empty if it has none.
        pixel_size_um: side of a pixel along x in micrometres; None if the file does not tell it.
        frame: ``[H, W]`` grey or ``[H, W, 3]`` RGB; uint8, uint16, or float within 0..1.
    """

    path: Path
    place: Place
    label: str
    position_name: str
    channel_name: str
    pixel_size_um: float | None
    frame: NDArray[Any]


@dataclass(frozen=True)
class PlaneChoice:
    """Which planes of a file to take.

    Each part of ``channel``, ``time`` and ``position`` is a number from 0, a range such as
    ``10-19``, ``each``, or a name. None takes the first channel, each z, each time and each
    position.

    Attributes:
        channel: numbers or names of channels. A name counts before a number.
        z: numbers, ``each``, or ``max`` for the maximum over all z.
        time: numbers of time points.
        position: numbers or names of positions.
    """

    channel: tuple[str, ...] | None = None
    z: tuple[str, ...] | None = None
    time: tuple[str, ...] | None = None
    position: tuple[str, ...] | None = None

    @classmethod
    def of(cls, channel: Pick, z: Pick, time: Pick, position: Pick) -> PlaneChoice:
        """Return the choice of what a caller of Python gives."""
        return cls(_parts(channel), _parts(z), _parts(time), _parts(position))

    def places(self, image: OpenImage) -> list[Place]:
        """Return the chosen places of a file, in the order of position, time, z and channel.

        Planes that the file lacks are left out.

        Raises:
            InvalidSetting: the file has no such channel, z, time or position.
        """
        found = []
        names = tuple(position.name for position in image.positions)
        for number in _picked("position", self.position, names, image.path):
            position = image.positions[number]
            channels = self._channels(position, image.path)
            depths = self._depths(position, image.path)
            for time in _picked("time", self.time, ("",) * position.times, image.path):
                found += [
                    Place(number, time, z, channel)
                    for z in depths
                    for channel in channels
                    if not _lacks(position, time, z, channel)
                ]
        if not found:
            raise InvalidSetting(
                f"{image.path}: A choice must name a plane that is in the file; given: one of "
                "which the file has no data. Choose others with --time, --z and --position."
            )
        return found

    def told(self, image: OpenImage) -> str:
        """Return in words what the defaults take of a file that has more; empty if nothing."""
        position = image.positions[0]
        words = []
        if self.channel is None and len(position.channels) > 1:
            name = position.channels[0] or "channel 0"
            words.append(
                f"{len(position.channels)} channels: {name} is segmented; choose with --channel"
            )
        for given, count, noun, option in (
            (self.z, position.depth, "z planes", "--z"),
            (self.time, position.times, "time points", "--time"),
            (self.position, len(image.positions), "positions", "--position"),
        ):
            if given is None and count > 1:
                also = ", or take their maximum with --z max" if option == "--z" else ""
                words.append(f"{count} {noun}: each is segmented; choose with {option}{also}")
        return ". ".join(words) + "." if words else ""

    def _channels(self, position: Position, path: Path) -> list[int]:
        return _picked("channel", self.channel or ("0",), position.channels, path)

    def _depths(self, position: Position, path: Path) -> list[int | None]:
        if self.z == (MAXIMUM,):
            return [0] if position.depth == 1 else [None]
        return list(_picked("z", self.z, ("",) * position.depth, path))


DEFAULT_PLANES = PlaneChoice()
"""The first channel, and each z, time and position."""


def read_planes(
    path: str | os.PathLike[str],
    *,
    channel: Pick = None,
    z: Pick = None,
    time: Pick = None,
    position: Pick = None,
    limits: FrameLimits = ONE_REQUEST,
) -> Iterator[Plane]:
    """Yield the planes of an image file, in the order of position, time, z and channel.

    Args:
        path: the file.
        channel: number or name, or several; the first channel by default.
        z: number, several, ``"each"`` (the default), or ``"max"`` for the maximum over all z.
        time: number, several, or ``"each"`` (the default).
        position: number or name, several, or ``"each"`` (the default).
        limits: how large a plane may be.

    Raises:
        UnreadableImage: the file or a plane is missing, damaged, or of no kind that is read.
        UnsupportedImage: the shape, dtype or values of a plane are not accepted.
        FrameTooLarge: a plane exceeds ``limits``.
        InvalidSetting: the file has no such channel, z, time or position.

        Every message names the file.
    """
    choice = PlaneChoice.of(channel, z, time, position)
    with open_image(Path(path), limits) as image:
        for place in choice.places(image):
            yield plane_at(image, place, limits)


def plane_at(image: OpenImage, place: Place, limits: FrameLimits) -> Plane:
    """Read one plane of an open file.

    Raises:
        UnreadableImage, UnsupportedImage, FrameTooLarge: as for :func:`read_planes`.
    """
    position = image.positions[place.position]
    if place.z is None:
        frame = _maximum(image, position, place, limits)
    else:
        frame = read_plane(image, position, place.time, place.z, place.channel, limits)
    return Plane(
        image.path,
        place,
        image.label(place),
        position.name,
        position.channels[place.channel],
        position.pixel_size_um,
        frame,
    )


def _maximum(
    image: OpenImage, position: Position, place: Place, limits: FrameLimits
) -> NDArray[Any]:
    """Return the maximum over all z, in the memory of two planes."""
    found: NDArray[Any] | None = None
    for z in range(position.depth):
        if position.lacks(place.time, z, place.channel):
            continue
        frame = read_plane(image, position, place.time, z, place.channel, limits)
        if found is not None and (found.dtype.kind == "f") != (frame.dtype.kind == "f"):
            with naming(image.path):
                raise InvalidSetting(
                    "A maximum is over planes of one range; given: floats within 0..1 and counts. "
                    "Choose planes with --z."
                )
        found = frame if found is None else np.maximum(found, frame)
    assert found is not None  # places() leaves out what lacks all planes
    return found


def _lacks(position: Position, time: int, z: int | None, channel: int) -> bool:
    depths = range(position.depth) if z is None else (z,)
    return all(position.lacks(time, each, channel) for each in depths)


def _parts(pick: Pick) -> tuple[str, ...] | None:
    if pick is None:
        return None
    if isinstance(pick, str):
        return (pick,)
    if isinstance(pick, Sequence):
        return tuple(str(part) for part in pick)
    return (str(pick),)


def _picked(
    axis: str, parts: tuple[str, ...] | None, names: tuple[str, ...], path: Path
) -> list[int]:
    """Return numbers along an axis, each once, in the order given."""
    if parts is None:
        parts = (EACH,)
    found: dict[int, None] = {}
    for part in parts:
        found.update(dict.fromkeys(_numbers(axis, part, names, path)))
    return list(found)


def _numbers(axis: str, part: str, names: tuple[str, ...], path: Path) -> list[int]:
    if part == EACH:
        return list(range(len(names)))
    if part in names and part:
        return [names.index(part)]
    alike = [at for at, name in enumerate(names) if name and name.casefold() == part.casefold()]
    if len(alike) == 1:
        return alike
    first, dash, last = part.partition("-")
    if first.isdecimal() and (last.isdecimal() if dash else True):
        start, end = int(first), int(last if dash else first)
        if start <= end < len(names):
            return list(range(start, end + 1))
    offered = ", ".join(f"{at} {name}".strip() for at, name in enumerate(names[:20]))
    more = ", ..." if len(names) > 20 else ""
    raise InvalidSetting(
        f"{path}: A {axis} is one that the file has: {offered}{more}; given: {part!r}. Choose "
        f"another with --{axis}."
    )
