"""Cells as a COCO data set of one image, which pycocotools and annotation tools read."""

from __future__ import annotations

from typing import Any

import numpy as np

from cytoserve.cells import Cells
from cytoserve.patches import run_lengths


def coco_dataset(cells: Cells, file_name: str) -> dict[str, Any]:
    """Return the data set as JSON-ready values.

    Masks are uncompressed run lengths (``counts`` as a list), exact and with their holes and
    overlaps; ``bbox`` is the detected box as x, y, width, height; categories count from 1.
    """
    height, width = cells.frame_shape
    corners, sides = cells.boxes[:, :2], cells.boxes[:, 2:] - cells.boxes[:, :2]
    boxes = np.concatenate([corners, sides], axis=1).astype(float)
    return {
        "images": [{"id": 1, "file_name": file_name, "height": height, "width": width}],
        "categories": [
            {"id": number, "name": name} for number, name in enumerate(cells.class_names, 1)
        ],
        "annotations": [
            {
                "id": number,
                "image_id": 1,
                "category_id": int(cells.class_ids[number - 1]) + 1,
                "bbox": [round(value, 3) for value in boxes[number - 1].tolist()],
                "area": int(np.count_nonzero(region.mask)),
                "segmentation": {
                    "size": [height, width],
                    "counts": run_lengths(region, cells.frame_shape),
                },
                "iscrowd": 0,
                "score": round(float(cells.scores[number - 1]), 6),
            }
            for number, region in enumerate(cells.regions(), 1)
        ],
    }
