"""The files that can be written for one frame, and how they come to be whole."""

from __future__ import annotations

import csv
import io
import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

from cytoserve.cells import Cells
from cytoserve.coco import coco_dataset
from cytoserve.overlay import draw_overlay

Encoder = Callable[[NDArray[Any], Cells, str], bytes]
"""Frame, its cells and its file name -> the content of a file."""


@dataclass(frozen=True)
class Output:
    """One kind of file: what it is, the end of its name, and what fills it."""

    summary: str
    ending: str
    encode: Encoder


def labels_tiff(frame: NDArray[Any], cells: Cells, name: str) -> bytes:
    """Encode the label image: TIFF, zlib, uint16 (uint32 beyond 65,535 cells)."""
    file = io.BytesIO()
    labels = cells.label_image()
    tifffile.imwrite(file, labels, photometric="minisblack", compression="zlib")
    return file.getvalue()


def table_csv(frame: NDArray[Any], cells: Cells, name: str) -> bytes:
    """Encode the table: CSV after RFC 4180, UTF-8, one row a cell; unknown values are empty."""
    columns = cells.table()
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(zip(*(map(_field, column) for column in columns.values()), strict=True))
    return text.getvalue().encode("utf-8")


def overlay_png(frame: NDArray[Any], cells: Cells, name: str) -> bytes:
    """Encode the overlay: PNG, 8-bit RGB."""
    picture = cv2.cvtColor(draw_overlay(frame, cells), cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".png", picture)
    if not done:
        raise OSError("OpenCV could not encode the overlay as PNG.")
    return data.tobytes()


def coco_json(frame: NDArray[Any], cells: Cells, name: str) -> bytes:
    """Encode a COCO data set of this one image."""
    return json.dumps(coco_dataset(cells, name), ensure_ascii=False).encode("utf-8")


OUTPUTS: Mapping[str, Output] = {
    "labels": Output("label image, uint16 TIFF", "labels.tif", labels_tiff),
    "table": Output("one row a cell, CSV", "table.csv", table_csv),
    "overlay": Output("picture with outlines and legend, PNG", "overlay.png", overlay_png),
    "coco": Output("COCO data set with run-length masks, JSON", "coco.json", coco_json),
}
"""What ``cytoserve segment --save`` offers."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that at any moment it is either the old one or the whole new one.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _field(value: Any) -> str:
    if isinstance(value, np.floating):
        return "" if np.isnan(value) else f"{value:.7g}"
    return str(value)
