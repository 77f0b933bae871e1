"""Runs ultralytics' client of a Triton server: ``... ultralytics_client grpc://HOST:PORT/MODEL``.

ultralytics itself prepares the frame and decodes the network's answer, in numpy and torch. The
server runs only the network. Requests come as lines: see `benchmarks.peers.wire`.
"""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.peers.study import PREDICT_SETTINGS, as_found
from benchmarks.peers.wire import Found, Image, answer_lines

from ultralytics import YOLO  # isort: skip  # after study, which keeps ultralytics offline


def main() -> None:
    """Connect and answer requests."""
    model: Any = YOLO(sys.argv[1], task="segment")

    def find(pipeline: str, image: Image) -> Found:
        return as_found(model.predict(image, **PREDICT_SETTINGS)[0])

    answer_lines(find)


if __name__ == "__main__":
    main()
