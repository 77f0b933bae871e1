"""Readers of annotated data sets, one module per format."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cytoserve.images import read_pixel_size
from training.datasets.annotated import AnnotatedDataset, AnnotationError
from training.datasets.readers.coco import read_coco
from training.datasets.readers.label_images import (
    label_files,
    read_cell_tracking,
    read_label_images,
    truth_folders,
)
from training.datasets.readers.yolo_seg import read_yolo_seg

__all__ = ["AnnotatedDataset", "AnnotationError", "read_annotated"]

LAYOUTS = (
    "COCO: images/ and instances.json (or one other *.json; of several, name the file); "
    "label images: images/, labels/*.png or *.tif and, for several classes, classes.json; "
    "YOLO-seg: images/, labels/*.txt and data.yaml; "
    "Cell Tracking Challenge: 01/tNNN.tif and 01_GT/SEG or 01_ST/SEG with man_segNNN.tif"
)


def read_annotated(path: Path) -> AnnotatedDataset:
    """Read the data set at ``path``: a folder, a COCO ``*.json`` file or a ``data.yaml`` file.

    The layout is recognised by its files, in this order: ``instances.json``, ``data.yaml``,
    images in ``labels/``, ``01_GT/SEG`` or ``01_ST/SEG``, one ``*.json``. Masks are read now,
    images when :meth:`~training.datasets.annotated.AnnotatedFrame.read` is called. The pixel size
    comes from the annotations or, if they do not state it, from the first image.

    Raises AnnotationError, which names the file, the entry, the reason and the remedy.
    """
    dataset = _read(Path(path))
    if dataset.pixel_size_um is None and dataset.frames:
        return replace(dataset, pixel_size_um=read_pixel_size(dataset.frames[0].path))
    return dataset


def _read(path: Path) -> AnnotatedDataset:
    if path.suffix == ".json":
        return read_coco(path)
    if path.name == "data.yaml":
        return read_yolo_seg(path.parent)
    if (path / "instances.json").exists():
        return read_coco(path / "instances.json")
    if (path / "data.yaml").exists():
        return read_yolo_seg(path)
    if label_files(path):
        return read_label_images(path)
    if truth_folders(path):
        return read_cell_tracking(path)
    tables = sorted(path.glob("*.json"))
    if len(tables) == 1:
        return read_coco(tables[0])
    found = ", ".join(sorted(entry.name for entry in path.glob("*"))[:10]) or "nothing"
    raise AnnotationError(
        path, "", f"holds no data set that is known ({found}); lay it out as one of {LAYOUTS}"
    )
