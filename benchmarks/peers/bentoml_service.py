"""The study's models behind BentoML: ``bentoml serve benchmarks.peers.bentoml_service:FindCells``.

This follows BentoML's guide to adaptive batching. A batchable method takes a list and returns one,
and BentoML decides from measured times how long to wait for more requests.
"""

from __future__ import annotations

from typing import Any

import bentoml  # type: ignore[import-not-found]  # in the peer's environment only
import numpy as np
from PIL.Image import Image

from benchmarks.peers.study import MAX_BATCH, StudyModels


@bentoml.service(workers=1, traffic={"timeout": 300})
class FindCells:
    """Answers ``POST /yolo`` and ``/yolo_resnet`` with the file ``images``."""

    def __init__(self) -> None:
        self.models = {name: StudyModels(name) for name in ("yolo", "yolo_resnet")}

    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH)  # type: ignore[untyped-decorator]
    def yolo(self, images: list[Image]) -> list[dict[str, Any]]:
        """Find cells and their classes with one network."""
        return self.find("yolo", images)

    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH)  # type: ignore[untyped-decorator]
    def yolo_resnet(self, images: list[Image]) -> list[dict[str, Any]]:
        """Find cells with one network, and their classes with another."""
        return self.find("yolo_resnet", images)

    def find(self, pipeline: str, images: list[Image]) -> list[dict[str, Any]]:
        """Run the models on one batch."""
        bgr = [np.asarray(image.convert("RGB"))[:, :, ::-1] for image in images]
        return [found.as_json() for found in self.models[pipeline].find(bgr)]
