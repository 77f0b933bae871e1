"""The files that can be written for one frame: ``cytoserve segment --save`` offers them.

Each kind has a module. :data:`CELLS_OUTPUTS` and :data:`FOREGROUND_OUTPUTS` list them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from numpy.typing import NDArray

from cytoserve.cells import Cells
from cytoserve.contract import Pipeline
from cytoserve.foreground import Foreground
from cytoserve.outputs.coco import coco_foreground_json, coco_json
from cytoserve.outputs.imagej_rois import rois_zip
from cytoserve.outputs.ome_tiff import labels_tiff, mask_tiff, probability_tiff
from cytoserve.outputs.overlay_png import overlay_png
from cytoserve.outputs.qupath_geojson import geojson
from cytoserve.outputs.source import Source
from cytoserve.outputs.tables import summary_csv, table_csv, table_parquet
from cytoserve.outputs.zarr_folder import Folder, ome_zarr

Result = TypeVar("Result", Cells, Foreground)

OVERLAY = "overlay"
"""The kind of file that uses ``numbers``."""


@dataclass(frozen=True)
class Output(Generic[Result]):
    """One kind of file.

    Attributes:
        summary: what it is, in some words.
        ending: the ending of its name.
        encode: takes the frame, the result and its source, and returns the content of the file,
            or of every file of a folder.
        module: the module it needs that the client does without; empty if there is none.
        run_file: name of the file that joins those of all images of a run; empty if there is none.
    """

    summary: str
    ending: str
    encode: Callable[[NDArray[Any], Result, Source], bytes | Folder]
    module: str = ""
    run_file: str = ""


_ROIS = Output[Any]("ImageJ ROIs, ZIP", "rois.zip", rois_zip, "roifile")
_GEOJSON = Output[Any]("QuPath detections, GeoJSON", "cells.geojson", geojson)
_ZARR = Output[Any](
    "image with its label image, OME-Zarr folder", "cells.ome.zarr", ome_zarr, "zarr"
)


def _table(rows: str, name: str) -> Output[Any]:
    return Output(
        f"one row {rows}, CSV; {name}.csv for all images",
        "table.csv",
        table_csv,
        run_file=f"{name}.csv",
    )


def _parquet(name: str) -> Output[Any]:
    return Output(
        f"the table as Parquet; {name}.parquet for all images",
        "table.parquet",
        table_parquet,
        "pyarrow",
        f"{name}.parquet",
    )


CELLS_OUTPUTS: Mapping[str, Output[Cells]] = {
    "labels": Output("label image, OME-TIFF", "labels.tif", labels_tiff),
    "table": _table("a cell", "cells"),
    "parquet": _parquet("cells"),
    OVERLAY: Output("picture with outlines and legend, PNG", "overlay.png", overlay_png),
    "rois": _ROIS,
    "geojson": _GEOJSON,
    "coco": Output("COCO data set with run-length masks, JSON", "coco.json", coco_json),
    "zarr": _ZARR,
}
"""Kinds of files that ``cytoserve segment --save`` offers for an instance pipeline."""

FOREGROUND_OUTPUTS: Mapping[str, Output[Foreground]] = {
    "mask": Output("0 or 255, uint8 OME-TIFF", "mask.tif", mask_tiff),
    "probability": Output("0 to 255, uint8 OME-TIFF", "probability.tif", probability_tiff),
    "table": _table("a connected component", "components"),
    "parquet": _parquet("components"),
    "summary": Output(
        "area fraction, confluency, counts, CSV; summary.csv for all images",
        "summary.csv",
        summary_csv,
        run_file="summary.csv",
    ),
    OVERLAY: Output("picture with outlines, points, legend, PNG", "overlay.png", overlay_png),
    "rois": _ROIS,
    "geojson": _GEOJSON,
    "coco": Output("COCO data set of components, JSON", "coco.json", coco_foreground_json),
    "zarr": _ZARR,
}
"""Kinds of files that ``cytoserve segment --save`` offers for a semantic pipeline."""


def outputs(pipeline: Pipeline) -> Mapping[str, Output[Cells]] | Mapping[str, Output[Foreground]]:
    """Return the kinds of files that can be written for a pipeline's results."""
    return FOREGROUND_OUTPUTS if pipeline.is_semantic else CELLS_OUTPUTS


def encode_output(
    kind: str,
    frame: NDArray[Any],
    result: Cells | Foreground,
    source: Source,
    numbers: bool = False,
) -> bytes | Folder:
    """Return the content of one file of a result, or of every file of a folder.

    Args:
        kind: a key of :func:`outputs`.
        frame: a frame that :func:`cytoserve.frames.to_wire` accepts.
        result: the cells or foreground found in it.
        source: where the frame comes from.
        numbers: whether cells or components carry their numbers in an overlay.

    Raises:
        KeyError: this kind does not exist for such a result.
        ImportError: the module that this kind needs is not installed.
    """
    if kind == OVERLAY:
        return overlay_png(frame, result, source, numbers)
    if isinstance(result, Cells):
        return CELLS_OUTPUTS[kind].encode(frame, result, source)
    return FOREGROUND_OUTPUTS[kind].encode(frame, result, source)
