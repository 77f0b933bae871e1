"""Encode the files that can be written for one frame.

Among them is a COCO dataset of one image, for pycocotools and annotation tools.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

from cytoserve.cells import Cells
from cytoserve.contract import Pipeline
from cytoserve.files import ODD_NAMES
from cytoserve.foreground import FULL, Foreground
from cytoserve.overlay import Picture, draw_foreground, draw_overlay
from cytoserve.patches import Region, run_lengths

Json = dict[str, Any]
Result = TypeVar("Result", Cells, Foreground)

OVERLAY = "overlay"
"""The kind of file that uses ``numbers`` and ``pixel_size_um``."""


@dataclass(frozen=True)
class Output(Generic[Result]):
    """One kind of file: its summary, the ending of its name, and its encoder.

    ``encode`` takes the frame, the result and the frame's file name, and returns the content of
    the file.
    """

    summary: str
    ending: str
    encode: Callable[[NDArray[Any], Result, str], bytes]


def labels_tiff(frame: NDArray[Any], cells: Cells, name: str) -> bytes:
    """Encode the label image: TIFF, zlib, uint16 (uint32 beyond 65,535 cells)."""
    return _tiff(cells.label_image())


def mask_tiff(frame: NDArray[Any], foreground: Foreground, name: str) -> bytes:
    """Encode the mask: TIFF, zlib, uint8, 255 foreground, 0 background."""
    return _tiff(np.where(foreground.mask, np.uint8(255), np.uint8(0)))


def probability_tiff(frame: NDArray[Any], foreground: Foreground, name: str) -> bytes:
    """Encode the probability: TIFF, zlib, uint8, 0..255 is 0..1."""
    return _tiff(foreground.probability)


def table_csv(frame: NDArray[Any], result: Cells | Foreground, name: str) -> bytes:
    """Encode the table: CSV as in RFC 4180, UTF-8, one row per cell or component; unknown values
    are empty."""
    return _csv(result.table())


def summary_csv(frame: NDArray[Any], foreground: Foreground, name: str) -> bytes:
    """Encode the summary: CSV as in RFC 4180, UTF-8, one row; unknown values are empty."""
    facts = {"file": name, "class": foreground.class_name, "threshold": foreground.threshold}
    return _csv({key: [value] for key, value in (facts | foreground.summary()).items()})


def overlay_png(
    frame: NDArray[Any],
    result: Cells | Foreground,
    name: str,
    numbers: bool = False,
    pixel_size_um: float | None = None,
) -> bytes:
    """Encode the overlay: PNG, 8-bit RGB.

    ``numbers`` and ``pixel_size_um`` are as for :func:`cytoserve.overlay.draw_overlay`.

    Raises:
        InvalidSetting: the pixel size is not a positive, finite number.
    """
    if isinstance(result, Cells):
        return _png(draw_overlay(frame, result, numbers, pixel_size_um))
    return _png(draw_foreground(frame, result, numbers, pixel_size_um))


def coco_dataset(cells: Cells, file_name: str) -> Json:
    """Return the cells of an image as JSON-ready values, one annotation per cell.

    Masks are uncompressed run lengths (``counts`` as a list), exact and with their holes.
    Annotation ``i`` has the pixels of cell ``i`` in the label image, and ``bbox`` is their
    bounding box as x, y, width, height. Category numbers start at 1.
    """
    annotations = [
        _annotation(number, region, cells.frame_shape)
        | {"category_id": int(class_id) + 1, "score": round(float(score), 6)}
        for number, (region, class_id, score) in enumerate(
            zip(cells.regions(), cells.class_ids, cells.scores, strict=True), 1
        )
    ]
    return _dataset(file_name, cells.frame_shape, cells.class_names, annotations)


def coco_foreground(foreground: Foreground, file_name: str) -> Json:
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
    return _dataset(file_name, shape, (foreground.class_name,), annotations)


def coco_json(frame: NDArray[Any], cells: Cells, name: str) -> bytes:
    """Encode a COCO dataset of this one image."""
    return _json(coco_dataset(cells, name))


def coco_foreground_json(frame: NDArray[Any], foreground: Foreground, name: str) -> bytes:
    """Encode a COCO dataset of this one image."""
    return _json(coco_foreground(foreground, name))


CELLS_OUTPUTS: Mapping[str, Output[Cells]] = {
    "labels": Output("label image, uint16 TIFF", "labels.tif", labels_tiff),
    "table": Output("one row a cell, CSV", "table.csv", table_csv),
    OVERLAY: Output("picture with outlines and legend, PNG", "overlay.png", overlay_png),
    "coco": Output("COCO data set with run-length masks, JSON", "coco.json", coco_json),
}
"""Kinds of files that ``cytoserve segment --save`` offers for an instance pipeline."""

FOREGROUND_OUTPUTS: Mapping[str, Output[Foreground]] = {
    "mask": Output("0 or 255, uint8 TIFF", "mask.tif", mask_tiff),
    "probability": Output("0 to 255, uint8 TIFF", "probability.tif", probability_tiff),
    "table": Output("one row a connected component, CSV", "table.csv", table_csv),
    "summary": Output("area fraction, confluency, counts, CSV", "summary.csv", summary_csv),
    OVERLAY: Output("picture with outlines, points, legend, PNG", "overlay.png", overlay_png),
    "coco": Output("COCO data set of components, JSON", "coco.json", coco_foreground_json),
}
"""Kinds of files that ``cytoserve segment --save`` offers for a semantic pipeline."""


def outputs(pipeline: Pipeline) -> Mapping[str, Output[Cells]] | Mapping[str, Output[Foreground]]:
    """Return the kinds of files that can be written for a pipeline's results."""
    return FOREGROUND_OUTPUTS if pipeline.is_semantic else CELLS_OUTPUTS


def encode_output(
    kind: str,
    frame: NDArray[Any],
    result: Cells | Foreground,
    name: str,
    numbers: bool = False,
    pixel_size_um: float | None = None,
) -> bytes:
    """Return the content of one file of a result.

    Args:
        kind: a key of :func:`outputs`.
        frame: a frame that :func:`cytoserve.frames.to_wire` accepts.
        result: the cells or foreground found in it.
        name: the frame's file name.
        numbers: whether cells or components carry their numbers in an overlay.
        pixel_size_um: side of a frame pixel in um, for an overlay's scale bar; None draws none.

    Raises:
        KeyError: this kind does not exist for such a result.
        InvalidSetting: the pixel size is not a positive, finite number.
    """
    if kind == OVERLAY:
        return overlay_png(frame, result, name, numbers, pixel_size_um)
    if isinstance(result, Cells):
        return CELLS_OUTPUTS[kind].encode(frame, result, name)
    return FOREGROUND_OUTPUTS[kind].encode(frame, result, name)


def _tiff(image: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, image, photometric="minisblack", compression="zlib")
    return file.getvalue()


def _csv(columns: Mapping[str, Iterable[Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(zip(*(map(_field, column) for column in columns.values()), strict=True))
    return text.getvalue().encode("utf-8", ODD_NAMES)


def _png(picture: Picture) -> bytes:
    done, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if not done:
        raise OSError("OpenCV could not encode the overlay as PNG.")
    return data.tobytes()


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
    file_name: str,
    frame_shape: tuple[int, int],
    class_names: tuple[str, ...],
    annotations: list[Json],
) -> Json:
    height, width = frame_shape
    return {
        "images": [{"id": 1, "file_name": file_name, "height": height, "width": width}],
        "categories": [{"id": number, "name": name} for number, name in enumerate(class_names, 1)],
        "annotations": annotations,
    }


def _json(dataset: Mapping[str, Any]) -> bytes:
    return json.dumps(dataset, ensure_ascii=False).encode("utf-8", ODD_NAMES)


def _field(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float | np.floating):
        if np.isnan(value):
            return ""
        return f"{value:.0f}" if value.is_integer() else f"{value:.7g}"  # counts stay exact
    return str(value)
