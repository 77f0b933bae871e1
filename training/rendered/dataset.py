"""Rendered frames as a COCO data set on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2

from cytoserve.files import write_atomically
from training.datasets.annotated import AnnotatedCell, rle_from_cell
from training.rendered.frame import render_frame
from training.rendered.settings import CLASS_NAMES, RenderSettings


def render_dataset(
    directory: Path,
    *,
    frames: int,
    settings: RenderSettings,
    seed: int,
    prefix: str = "frame",
    on_frame: Callable[[], None] = lambda: None,
) -> None:
    """Write ``images/<prefix>_0000.png`` ... and ``instances.json`` into ``directory``.

    Masks are RLE, exact and with their overlap. Frame i is ``render_frame(settings, (seed, i))``,
    regardless of the number of frames. ``instances.json`` is replaced last; it records settings and
    seed. ``on_frame`` is called after each frame.

    Raises CrowdedFrameError if the cells do not fit, OSError if a file cannot be written.
    """
    (directory / "images").mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(frames):
        frame, cells = render_frame(settings, (seed, index))
        image = {
            "id": index + 1,
            "file_name": f"{prefix}_{index:04d}.png",
            "height": settings.height,
            "width": settings.width,
        }
        file = directory / "images" / str(image["file_name"])
        if not cv2.imwrite(str(file), frame):
            raise OSError(f"{file}: cannot be written; check the folder and the free space")
        images.append(image)
        for cell in cells:
            annotations.append({"id": len(annotations) + 1, **_annotation(cell, image)})
        on_frame()
    instances = {
        "info": {
            "description": "Rendered phase-contrast frames (python -m training.rendered)",
            "pixel_size_um": settings.pixel_um,
            "settings": settings.model_dump(),
            "seed": seed,
        },
        "images": images,
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(CLASS_NAMES)],
        "annotations": annotations,
    }
    write_atomically(directory / "instances.json", json.dumps(instances).encode())


def _annotation(cell: AnnotatedCell, image: dict[str, Any]) -> dict[str, Any]:
    height, width = cell.mask.shape
    return {
        "image_id": image["id"],
        "category_id": cell.class_id + 1,
        "bbox": [cell.x, cell.y, width, height],
        "area": cell.area,
        "iscrowd": 0,
        "segmentation": rle_from_cell(cell, image["height"], image["width"]),
    }
