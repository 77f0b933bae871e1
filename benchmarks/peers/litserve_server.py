"""The study's models behind LitServe: ``python -m benchmarks.peers.litserve_server PORT``.

This follows LitServe's guide to batching: a `LitAPI` per model, which takes the requests of
``batch_timeout`` seconds as one batch. The guide's example waits 0.1 s, which slows single clients.
"""

# No `from __future__ import annotations`: LitServe reads the type of a request from its annotation.

import sys
from collections.abc import Sequence
from typing import Any

import litserve as ls  # type: ignore[import-not-found]  # in the peer's environment only
from fastapi import Request  # type: ignore[import-not-found]

from benchmarks.peers.study import MAX_BATCH, StudyModels, read_image
from benchmarks.peers.wire import Found, Image


class FindCells(ls.LitAPI):  # type: ignore[misc]  # see above
    """Answers ``POST /<pipeline>`` with the file ``image``."""

    def __init__(self, pipeline: str) -> None:
        super().__init__(max_batch_size=MAX_BATCH, batch_timeout=0.01, api_path=f"/{pipeline}")
        self.pipeline = pipeline

    def setup(self, device: str) -> None:
        """Load the models in the worker."""
        self.models = StudyModels(self.pipeline)

    def decode_request(self, request: Request) -> Image:
        """Read the uploaded file."""
        return read_image(request["image"].file.read())

    def batch(self, inputs: Sequence[Image]) -> Sequence[Image]:
        """Return the images as they are, since they may differ in size."""
        return inputs

    def predict(self, images: Sequence[Image]) -> list[Found]:
        """Run the models on one batch."""
        return self.models.find(images)

    def unbatch(self, output: list[Found]) -> list[Found]:
        """Return one answer per image."""
        return output

    def encode_response(self, output: Found) -> dict[str, Any]:
        """Encode an answer."""
        return output.as_json()


if __name__ == "__main__":
    apis = [FindCells(pipeline) for pipeline in ("yolo", "yolo_resnet")]
    server = ls.LitServer(apis, accelerator="cpu", workers_per_device=1, timeout=300)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)
