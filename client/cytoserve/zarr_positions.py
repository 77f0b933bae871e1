"""Find the positions of an OME-Zarr image or plate, by the optional package zarr (MIT).

The metadata are those of OME-NGFF 0.1 to 0.5. The first of the resolutions of an image is the full
one. Chunks are read when their plane is asked for. A chunk that is not stored has, by Zarr's rule,
the fill value.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoserve.errors import UnreadableImage
from cytoserve.frames import FrameLimits, check_layout
from cytoserve.pixel_sizes import micrometres, plausible
from cytoserve.positions import OpenImage, Position, refused

ZARR_SUFFIX = ".zarr"
"""Suffix of a folder that is an OME-Zarr, in lower case."""

MAX_CHUNK_BYTES = 1 << 30
"""Maximum size of a chunk, which is decoded as a whole."""

_METADATA = ("zarr.json", ".zattrs", ".zgroup", ".zarray")
_OLD_AXES = ("t", "c", "z", "y", "x")  # before version 0.3
_METADATA_BYTES = 1 << 24


def is_zarr(path: Path) -> bool:
    """Tell whether a folder is a Zarr, by its suffix or its metadata."""
    return path.name.lower().endswith(ZARR_SUFFIX) or any(
        (path / name).is_file() for name in _METADATA
    )


def open_zarr(path: Path, limits: FrameLimits) -> OpenImage:
    """Open an OME-Zarr image, plate, or collection of images; no chunk is read yet.

    Raises:
        UnreadableImage: the package zarr is missing, or the folder holds no image.
        UnsupportedImage, FrameTooLarge: an image cannot be a frame.
    """
    try:
        import zarr
    except ImportError as error:
        raise refused(
            "an OME-Zarr", 'Install its reader with pip install "cytoserve[zarr]".'
        ) from error
    positions = []
    for name, folder in _images(path):
        array, position = _position(zarr, name, folder)
        check_layout(position.shape, np.dtype(np.uint16), limits)
        if math.prod(array.chunks) * array.dtype.itemsize > MAX_CHUNK_BYTES:
            raise refused(f"a Zarr with chunks of {array.chunks}", "Save it in smaller chunks.")
        positions.append(position)
    if not positions:
        raise refused("a Zarr without an OME image", "Check that it is an OME-Zarr.")
    return OpenImage(path, tuple(positions), is_one_file=False)


def _images(path: Path) -> Iterator[tuple[str, Path]]:
    """Yield name and folder of every image: one, those of a plate's fields, or of a collection."""
    told = _attributes(path)
    if "multiscales" in told:
        yield str(told["multiscales"][0].get("name", "")), path
    elif "plate" in told:
        for well in told["plate"]["wells"]:
            folder = _below(path, well["path"])
            for field in _attributes(folder)["well"]["images"]:
                yield f"{well['path']}/{field['path']}", _below(folder, field["path"])
    elif "well" in told:
        for field in told["well"]["images"]:
            yield str(field["path"]), _below(path, field["path"])
    else:  # bioformats2raw writes one group per series: 0, 1, ...
        number = 0
        while (path / str(number)).is_dir() and "multiscales" in _attributes(path / str(number)):
            yield str(number), path / str(number)
            number += 1


def _below(path: Path, name: str) -> Path:
    """Return a folder that metadata name; one outside the Zarr is refused."""
    folder = path / name
    if Path(name).is_absolute() or ".." in Path(name).parts or not folder.is_dir():
        raise refused(f"a Zarr without its part {name!r}", "Copy it again.")
    return folder


def _attributes(path: Path) -> dict[str, Any]:
    """Return the OME metadata of a group, of Zarr 2 or 3; empty if there are none."""
    for name in ("zarr.json", ".zattrs"):
        file = path / name
        if not file.is_file():
            continue
        if file.stat().st_size > _METADATA_BYTES:
            raise refused(f"metadata of {file.stat().st_size:,} bytes", "Check the file.")
        told = json.loads(file.read_text("utf-8"))
        told = told.get("attributes", {}) if name == "zarr.json" else told
        found = told.get("ome", told)
        if isinstance(found, dict):
            return found
    return {}


def _position(zarr: Any, name: str, folder: Path) -> tuple[Any, Position]:
    told = _attributes(folder)
    scales = told["multiscales"][0]
    dataset = scales["datasets"][0]
    array = zarr.open_array(_below(folder, str(dataset["path"])), mode="r")
    axes = [axis if isinstance(axis, str) else str(axis["name"]) for axis in scales.get("axes", ())]
    axes = axes or list(_OLD_AXES[-array.ndim :])
    sizes = dict(zip(axes, array.shape, strict=True))
    if axes[-2:] != ["y", "x"] or not set(axes[:-2]) <= {"t", "c", "z"}:
        raise refused(f"an OME-Zarr with axes {', '.join(axes)}", "Save it as t, c, z, y, x.")
    position = Position(
        name=name,
        times=sizes.get("t", 1),
        depth=sizes.get("z", 1),
        channels=_channel_names(told, sizes.get("c", 1)),
        shape=(sizes["y"], sizes["x"]),
        dtype=np.dtype(array.dtype),
        pixel_size_um=plausible(_pixel_size(scales, dataset, axes)),
        load=partial(_load, array, tuple(axes[:-2])),
    )
    return array, position


def _load(array: Any, axes: tuple[str, ...], time: int, z: int, channel: int) -> NDArray[Any]:
    place = {"t": time, "z": z, "c": channel}
    try:
        return np.asarray(array[tuple(place[axis] for axis in axes)])
    except UnreadableImage:
        raise
    except Exception as error:  # each codec has an error of its own
        raise refused(f"it is truncated or damaged ({error!r:.300})", "Copy it again.") from error


def _channel_names(told: dict[str, Any], channels: int) -> tuple[str, ...]:
    try:
        names = tuple(str(each.get("label", "")) for each in told["omero"]["channels"])
    except (KeyError, TypeError, AttributeError):
        names = ()
    return names if len(names) == channels else ("",) * channels


def _pixel_size(scales: dict[str, Any], dataset: dict[str, Any], axes: list[str]) -> float | None:
    """Return the size along x in micrometres; None without a unit."""
    try:
        unit = scales["axes"][-1]["unit"]
        size = 1.0
        for told in (dataset, scales):
            for step in told.get("coordinateTransformations", ()):
                if step.get("type") == "scale":
                    size *= float(step["scale"][len(axes) - 1])
    except (KeyError, TypeError, ValueError, IndexError):
        return None
    factor = micrometres(unit)
    return None if factor is None else size * factor
