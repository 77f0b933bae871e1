"""A COCO dataset of one image, for pycocotools and annotation tools."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoserve.cells import Cells
from cytoserve.files import ODD_NAMES
from cytoserve.foreground import FULL, Foreground
from cytoserve.outputs.source import Source
from cytoserve.patches import Region, run_lengths

Json = dict[str, Any]


def coco_dataset(cells: Cells, source: Source) -> Json:
    """Return the cells of an image as JSON-ready values, one annotation per cell.

    Masks are uncompressed run lengths (``counts`` as a list), exact and with their holes.
    Annotation ``i`` has the pixels of cell ``i`` in the label image, and ``bbox`` is their
    bounding box as x, y, width, height. Category numbers start at 1. The image has a
    ``pixel_size_um`` if the source tells one, and a ``plane``; readers of COCO skip both.
    """
    annotations = [
        _annotation(number, region, cells.frame_shape)
        | {"category_id": int(class_id) + 1, "score": round(float(score), 6)}
        for number, (region, class_id, score) in enumerate(
            zip(cells.regions(), cells.class_ids, cells.scores, strict=True), 1
        )
    ]
    return _dataset(source, cells.frame_shape, cells.class_names, annotations)


def coco_foreground(foreground: Foreground, source: Source) -> Json:
    """Return the foreground of an image as JSON-ready values, one annotation per component.

    The form is that of :func:`coco_dataset`; ``score`` is the mean probability of the component's
    pixels.
    """
    shape = foreground.frame_shape
    annotations = []
    for number, region in enumerate(foreground.components(), 1):
        values = foreground.probability[region.rows, region.columns][region.mask]
        own = {"category_id": 1, "score": round(float(values.mean() / FULL), 6)}
        annotations.append(_annotation(number, region, shape) | own)
    return _dataset(source, shape, (foreground.class_name,), annotations)


def coco_json(frame: NDArray[Any], cells: Cells, source: Source) -> bytes:
    """Encode a COCO dataset of this one image."""
    return _json(coco_dataset(cells, source))


def coco_foreground_json(frame: NDArray[Any], foreground: Foreground, source: Source) -> bytes:
    """Encode a COCO dataset of this one image."""
    return _json(coco_foreground(foreground, source))


def _annotation(number: int, region: Region, frame_shape: tuple[int, int]) -> Json:
    height, width = region.mask.shape
    return {
        "id": number,
        "image_id": 1,
        "bbox": [region.columns.start, region.rows.start, width, height],
        "area": int(np.count_nonzero(region.mask)),
        "segmentation": {
            "size": list(frame_shape),
            "counts": run_lengths(region, frame_shape),
        },
        "iscrowd": 0,
    }


def _dataset(
    source: Source,
    frame_shape: tuple[int, int],
    class_names: tuple[str, ...],
    annotations: list[Json],
) -> Json:
    height, width = frame_shape
    image: Json = {"id": 1, "file_name": source.name, "height": height, "width": width}
    if source.plane:
        image["plane"] = source.plane
    if source.pixel_size_um is not None:
        image["pixel_size_um"] = source.pixel_size_um
    return {
        "images": [image],
        "categories": [{"id": number, "name": name} for number, name in enumerate(class_names, 1)],
        "annotations": annotations,
    }


def _json(dataset: Mapping[str, Any]) -> bytes:
    return json.dumps(dataset, ensure_ascii=False).encode("utf-8", ODD_NAMES)
