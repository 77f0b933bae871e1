"""The study's models in PyTorch, for the reference implementation and behind the peers' servers.

This also runs in the environments of the peers, which contain only `pytorch.in` and the peer.
``python -m benchmarks.peers.study``, in this project's environment, is the reference implementation
in a process: ultralytics' predictor, then a loop over cells. It reads requests as lines: see
`benchmarks.peers.wire`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.peers.wire import Found, Image, answer_lines
from cytoserve.contract import (
    DEFAULT_MAX_CELLS,
    NETWORK_SIZE,
    OVERLAP_THRESHOLD,
    SCORE_THRESHOLD,
)
from export.resnet.network import CLASSIFIER_CHUNK
from training.preprocessing.cutting import CellCrops
from training.resnet.network import load_classifier
from training.yolo.network import MODEL_FILE, all_threads, load_network

from ultralytics import YOLO  # isort: skip  # after training.yolo.network, which keeps ultralytics offline

CHECKPOINTS_VARIABLE = "PEER_CHECKPOINTS"
"""Environment variable with the folder of the checkpoints `cells`, `targets` and `classifier`."""

MAX_BATCH = 8
"""Maximum frames in a peer's batch: one per client that is measured at once."""

PREDICT_SETTINGS: dict[str, Any] = {
    "imgsz": NETWORK_SIZE,
    "conf": SCORE_THRESHOLD,
    "iou": OVERLAP_THRESHOLD,
    "max_det": DEFAULT_MAX_CELLS,
    "agnostic_nms": True,
    "rect": False,
    "verbose": False,
}
"""Arguments of ultralytics' ``predict`` that are closest to the server's. ``iou`` compares boxes,
whereas the server compares masks. All contenders have one score threshold, not that of the card."""


class StudyModels:
    """One pipeline on every core, with the checkpoints that the environment names.

    Args:
        pipeline: ``yolo`` or ``yolo_resnet``.
        chunk: number of crops that the classifier takes at once, by default as many as in the
            server. The study's scripts gave it one.
    """

    def __init__(self, pipeline: str, chunk: int = CLASSIFIER_CHUNK) -> None:
        folder = Path(os.environ[CHECKPOINTS_VARIABLE])
        classified = pipeline == "yolo_resnet"
        self._yolo: Any = YOLO(MODEL_FILE, task="segment", verbose=False)
        self._yolo.model = load_network(folder / ("cells" if classified else "targets"))[0]
        self._classifier = load_classifier(folder / "classifier")[0] if classified else None
        self._chunk = chunk
        # ultralytics leaves one core idle when it chooses a CPU with the first frame.
        self.find([np.zeros((NETWORK_SIZE, NETWORK_SIZE, 3), np.uint8)])
        torch.set_num_threads(len(os.sched_getaffinity(0)))

    def find(self, images: Sequence[Image]) -> list[Found]:
        """Find the cells of 8-bit BGR images ``[H, W, 3]``, all in one run of the network."""
        with all_threads():
            found = [as_found(r) for r in self._yolo.predict(list(images), **PREDICT_SETTINGS)]
            return found if self._classifier is None else self._classified(images, found)

    def _classified(self, images: Sequence[Image], found: Sequence[Found]) -> list[Found]:
        """Replace the class of every cell by the classifier's for its crop."""
        assert self._classifier is not None
        with torch.inference_mode():
            crops = torch.cat([cut(*pair) for pair in zip(images, found, strict=True)])
            ids = [
                self._classifier(crops[start : start + self._chunk]).argmax(dim=1).numpy()
                for start in range(0, len(crops), self._chunk)
            ]
        ends = np.cumsum([len(each) for each in found])[:-1]
        parts = np.split(np.concatenate([np.zeros(0, np.int64), *ids]), ends)
        return [
            Found(each.boxes, own, each.outlines) for each, own in zip(found, parts, strict=True)
        ]


def cut(image: Image, found: Found) -> torch.Tensor:
    """Cut the crops of cells, uint8 ``[N, 3, S, S]``, as for the classifier's training."""
    rgb = torch.from_numpy(np.ascontiguousarray(image[:, :, ::-1]))
    boxes = torch.from_numpy(found.boxes)
    crops: torch.Tensor = CellCrops()(rgb, torch.tensor([0.0, 255.0]), boxes)
    return crops[: len(boxes)]


def as_found(result: Any) -> Found:
    """Return the cells of ultralytics' ``Results``."""
    outlines = result.masks.xy if result.masks else []
    return Found(
        result.boxes.xyxy.numpy(), result.boxes.cls.numpy().astype(np.int64), list(outlines)
    )


def read_image(data: bytes) -> Image:
    """Decode an image file's bytes to BGR ``[H, W, 3]``."""
    image: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    bgr: Image = image
    return bgr


def main() -> None:
    """Load both approaches and answer requests."""
    models = {pipeline: StudyModels(pipeline, chunk=1) for pipeline in ("yolo", "yolo_resnet")}

    def find(pipeline: str, image: Image) -> Found:
        return models[pipeline].find([image])[0]

    answer_lines(find)


if __name__ == "__main__":
    main()
