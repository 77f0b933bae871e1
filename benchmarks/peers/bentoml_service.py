"""The study's models behind BentoML: ``bentoml serve benchmarks.peers.bentoml_service:FindCells``.

As its guide to adaptive batching has it: a batchable method takes a list and answers with one, and
BentoML decides by the times that it sees how long to wait for more.
"""

from __future__ import annotations

from typing import Any

import bentoml  # type: ignore[import-not-found]  # in the peer's environment only
import numpy as np
from PIL.Image import Image

from benchmarks.peers.study import MAX_BATCH, StudyModels


@bentoml.service(workers=1, traffic={"timeout": 300})
class FindCells:
    """``POST /yolo`` and ``/yolo_resnet`` with the file ``images``."""

    def __init__(self) -> None:
        self.models = {name: StudyModels(name) for name in ("yolo", "yolo_resnet")}

    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH)  # type: ignore[untyped-decorator]
    def yolo(self, images: list[Image]) -> list[dict[str, Any]]:
        """Cells and their classes by one network."""
        return self.find("yolo", images)

    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH)  # type: ignore[untyped-decorator]
    def yolo_resnet(self, images: list[Image]) -> list[dict[str, Any]]:
        """Cells by one network, their classes by another."""
        return self.find("yolo_resnet", images)

    def find(self, pipeline: str, images: list[Image]) -> list[dict[str, Any]]:
        """Run the models on one batch."""
        bgr = [np.asarray(image.convert("RGB"))[:, :, ::-1] for image in images]
        return [found.as_json() for found in self.models[pipeline].find(bgr)]
