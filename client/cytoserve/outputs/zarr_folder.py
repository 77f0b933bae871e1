"""The frame as OME-Zarr 0.4, with the label image beside it under ``labels/cells``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cytoserve.cells import Cells
from cytoserve.files import ODD_NAMES
from cytoserve.foreground import Foreground
from cytoserve.outputs.extras import require
from cytoserve.outputs.source import Source, encodable
from cytoserve.overlay import class_colour

Json = dict[str, Any]
Folder = dict[str, bytes]
"""Path of a file below a folder -> its content."""

LABELS = "cells"
"""Name of the label image in the group ``labels``."""

_VERSION = "0.4"  # the one that napari, Fiji and QuPath all read
_CHUNK = 1024  # side of a chunk in pixels
_LEAST_SIDE = 1024  # levels are halved until they are no larger


def ome_zarr(frame: NDArray[Any], found: Cells | Foreground, source: Source) -> Folder:
    """Encode frame and label image as OME-Zarr 0.4, chunks of 1024 px, zlib.

    Both are multiscale, each level half as large as the one before. A frame with channels has the
    axes c, y, x. The class of every label is told in ``image-label``.

    Raises:
        ImportError: zarr is not installed.
    """
    require("zarr")
    labels = found.label_image()
    channels = [frame] if frame.ndim == 2 else [frame[..., c] for c in range(frame.shape[2])]
    levels = [list(_levels(channel, cv2.INTER_AREA)) for channel in channels]
    images = [np.stack(level) for level in zip(*levels, strict=True)]
    if frame.ndim == 2:
        images = [image[0] for image in images]
    label_levels = list(_levels(labels, cv2.INTER_NEAREST))
    name = encodable(" ".join(filter(None, (source.name, source.plane))))
    files: Folder = {}
    _put(files, "", _multiscales(name, images, source) | _omero(name, channels, source))
    _put(files, "labels", {"labels": [LABELS]})
    _put(
        files,
        f"labels/{LABELS}",
        _multiscales(LABELS, label_levels, source) | {"image-label": _image_label(found)},
    )
    for level, (image, label) in enumerate(zip(images, label_levels, strict=True)):
        files |= _array(str(level), image)
        files |= _array(f"labels/{LABELS}/{level}", label)
    return files


def _levels(image: NDArray[Any], way: int) -> Iterator[NDArray[Any]]:
    yield image
    while max(image.shape) > _LEAST_SIDE:
        if way == cv2.INTER_NEAREST:  # OpenCV resizes no uint32
            image = image[::2, ::2]
        else:
            size = ((image.shape[1] + 1) // 2, (image.shape[0] + 1) // 2)
            image = cv2.resize(np.ascontiguousarray(image), size, interpolation=way)
        yield image


def _array(path: str, image: NDArray[Any]) -> Folder:
    """Return the files of one array."""
    import zarr
    from numcodecs import Zlib

    store: dict[str, Any] = {}
    options: Json = {
        "shape": image.shape,
        "chunks": (1,) * (image.ndim - 2) + tuple(min(_CHUNK, side) for side in image.shape[-2:]),
        "dtype": image.dtype,
        "compressor": Zlib(),
        "fill_value": 0,
        "dimension_separator": "/",
        "path": path,
    }
    if int(version("zarr").partition(".")[0]) < 3:  # the newest for Python 3.10
        array = zarr.create(store=store, **options)
    else:
        array = zarr.create(store=zarr.storage.MemoryStore(store), zarr_format=2, **options)
    array[...] = image
    return {
        name: bytes(content) if isinstance(content, bytes) else content.to_bytes()
        for name, content in store.items()
        if name.startswith(f"{path}/")
    }


def _put(files: Folder, group: str, attributes: Json) -> None:
    below = f"{group}/" if group else ""
    files[f"{below}.zgroup"] = json.dumps({"zarr_format": 2}).encode()
    text = json.dumps(attributes, ensure_ascii=False)
    files[f"{below}.zattrs"] = text.encode("utf-8", ODD_NAMES)


def _multiscales(name: str, levels: list[NDArray[Any]], source: Source) -> Json:
    size, unit = source.pixel_size_um, {"unit": "micrometer"}
    space = [{"name": axis, "type": "space", **(unit if size else {})} for axis in "yx"]
    channel = [{"name": "c", "type": "channel"}] * (levels[0].ndim - 2)
    datasets = [
        {
            "path": str(level),
            "coordinateTransformations": [
                {
                    "type": "scale",
                    "scale": [1.0] * len(channel) + [float(size or 1) * 2**level] * 2,
                }
            ],
        }
        for level in range(len(levels))
    ]
    scales = {"version": _VERSION, "name": name, "axes": channel + space, "datasets": datasets}
    return {"multiscales": [scales]}


def _omero(name: str, channels: list[NDArray[Any]], source: Source) -> Json:
    named = len(source.channels) == len(channels)
    colours = ("FF0000", "00FF00", "0000FF") if len(channels) == 3 else ("FFFFFF",)
    told = []
    for number, channel in enumerate(channels):
        low, high = float(channel.min()), float(channel.max())
        told.append(
            {
                "label": source.channels[number] if named else str(number),
                "color": colours[number % len(colours)],
                "active": True,
                "window": {"min": low, "max": high, "start": low, "end": high},
            }
        )
    return {"omero": {"version": _VERSION, "name": name, "channels": told}}


def _image_label(found: Cells | Foreground) -> Json:
    table = found.table()
    names = [found.class_name] if isinstance(found, Foreground) else list(found.class_names)
    classes = table["class"].tolist()
    colours = {name: [*class_colour(index), 255] for index, name in enumerate(names)}
    told: Json = {"version": _VERSION, "source": {"image": "../../"}}
    if classes:  # the specification allows no empty lists
        numbered = list(enumerate(classes, 1))
        told["properties"] = [{"label-value": label, "class": name} for label, name in numbered]
        told["colors"] = [{"label-value": label, "rgba": colours[name]} for label, name in numbered]
    return told
