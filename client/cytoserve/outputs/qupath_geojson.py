"""Detections as QuPath imports them (File > Import objects from file, from QuPath 0.5 on).

QuPath reads a GeoJSON feature collection: coordinates are in pixels from the top left corner of
the image, ``properties`` hold the object's type, name, class, measurements and metadata.
"""

from __future__ import annotations

import json
import math
import re
import uuid
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoserve.cells import Cells
from cytoserve.foreground import Foreground
from cytoserve.outputs.shapes import Ring, Shape, shapes
from cytoserve.outputs.source import Source, encodable
from cytoserve.outputs.tables import table_columns
from cytoserve.overlay import class_colour

Json = dict[str, Any]

_DECIMALS = 3  # of coordinates, in pixels
_DIGITS = 7  # of measurements, as in CSV
_FORBIDDEN = re.compile(r"[:\r\n]+")  # in the name of a QuPath class
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "cytoserve:detections")


def geojson_features(
    found: Cells | Foreground, source: Source, frame: NDArray[Any] | None = None
) -> Json:
    """Return a GeoJSON feature collection, one detection per cell or component with a pixel.

    A detection's name is its number in the label image. Its measurements are the numbers of
    :func:`cytoserve.outputs.tables.table_columns`; unknown ones are left out. Its metadata are the
    image, the plane, the pixel size and the class, as text. ``id`` is a UUID that is always the
    same for the same outline in the same image.

    QuPath allows no colon and no line break in a class; a blank stands for them there.
    """
    columns = table_columns(found, source, frame)
    classes = columns.pop("class").tolist()
    colours = _colours(found)
    numbers = {
        name: column.astype(np.float64).tolist()
        for name, column in columns.items()
        if name != "label" and column.dtype.kind in "uif"
    }
    place = {"image": encodable(source.image), "plane": encodable(source.plane)}
    if source.pixel_size_um is not None:
        place["pixel_size_um"] = repr(source.pixel_size_um)
    features = []
    for shape in shapes(found):
        row = shape.label - 1
        metadata = {**place, "class": classes[row]}
        properties = {
            "objectType": "detection",
            "name": str(shape.label),
            "measurements": {
                name: _rounded(column[row])
                for name, column in numbers.items()
                if math.isfinite(column[row])
            },
            "metadata": {name: value for name, value in metadata.items() if value},
        }
        if class_name := _FORBIDDEN.sub(" ", classes[row]).strip():
            colour = list(colours[classes[row]])
            properties["classification"] = {"name": class_name, "color": colour}
        features.append(_feature(shape, source, properties))
    return {"type": "FeatureCollection", "features": features}


def geojson(frame: NDArray[Any], found: Cells | Foreground, source: Source) -> bytes:
    """Encode :func:`geojson_features`, with the intensities of the frame: UTF-8."""
    features = geojson_features(found, source, frame)
    return json.dumps(features, ensure_ascii=False, allow_nan=False).encode("utf-8")


def _colours(found: Cells | Foreground) -> dict[str, tuple[int, int, int]]:
    names = (found.class_name,) if isinstance(found, Foreground) else found.class_names
    return {name: class_colour(index) for index, name in enumerate(names)}


def _feature(shape: Shape, source: Source, properties: Json) -> Json:
    rings = [_closed(ring) for ring in (shape.outline, *shape.holes)]
    told = f"{encodable(source.image)}\n{encodable(source.plane)}\n{shape.label}\n{rings}"
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(_NAMESPACE, told)),
        "geometry": {"type": "Polygon", "coordinates": rings},
        "properties": properties,
    }


def _closed(ring: Ring) -> list[list[float]]:
    points: list[list[float]] = np.round(ring.astype(np.float64), _DECIMALS).tolist()
    return [*points, points[0]]  # GeoJSON repeats the first point


def _rounded(value: float) -> float:
    return value if value.is_integer() else float(f"{value:.{_DIGITS}g}")
