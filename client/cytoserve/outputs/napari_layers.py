"""Layers for napari, as plain tuples: nothing of napari is imported."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoserve.cells import Cells
from cytoserve.foreground import Foreground
from cytoserve.outputs.shapes import shapes
from cytoserve.outputs.source import Source
from cytoserve.outputs.tables import table_columns

LayerData = tuple[Any, dict[str, Any], str]
"""Data, keyword arguments, and type of a layer: ``napari.layers.Layer.create(*layer)``."""


def napari_layers(
    found: Cells | Foreground, pixel_size_um: float | None = None, outlines: bool = False
) -> list[LayerData]:
    """Return the layers of a result; see :meth:`cytoserve.exports.Exports.to_napari`."""
    columns = table_columns(found, Source(pixel_size_um=pixel_size_um))
    features = {"index": columns["label"], **columns}
    size = 1.0 if pixel_size_um is None else float(pixel_size_um)
    common: dict[str, Any] = {"scale": (size, size)}
    labels = np.array(found.label_image())  # napari paints on it
    is_foreground = isinstance(found, Foreground)
    name = "components" if is_foreground else "cells"
    layers: list[LayerData] = [(labels, {"name": name, "features": features, **common}, "labels")]
    if outlines:
        drawn = list(shapes(found))
        rows = np.array([shape.label - 1 for shape in drawn], np.intp)
        layers.append(
            (
                [_places(shape.outline) for shape in drawn],
                {
                    "name": "outlines",
                    "shape_type": "polygon",
                    "face_color": "transparent",
                    "edge_width": 0.5,
                    "features": _rows(columns, rows),
                    **common,
                },
                "shapes",
            )
        )
    points, told = _points(found, columns)
    layers.append((points, {"name": "centres", "size": 5, "features": told, **common}, "points"))
    return layers


def _points(
    found: Cells | Foreground, columns: dict[str, NDArray[Any]]
) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
    """Return the centres, ``[N, 2]`` (row, column) as napari counts them, and their features."""
    if isinstance(found, Foreground) and found.centres is not None:
        scores: Any = found.centre_scores
        return _places(found.centres), {"score": scores}
    centroids = np.stack([columns["centroid-0"], columns["centroid-1"]], axis=1)
    rows = np.flatnonzero(np.isfinite(centroids).all(axis=1))  # without a pixel there is no place
    return centroids[rows], _rows(columns, rows)


def _places(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn (x, y) into (row, column); in napari a pixel's centre is its index."""
    return points[:, ::-1] - np.float32(0.5)


def _rows(columns: dict[str, NDArray[Any]], rows: NDArray[np.intp]) -> dict[str, NDArray[Any]]:
    return {name: column[rows] for name, column in columns.items()}
