"""Runs the reference implementation in a process: ultralytics' predictor, then a loop over cells.

It runs in this project's environment and reads requests as lines: see `benchmarks.peers.wire`.
"""

from __future__ import annotations

from benchmarks.peers.study import StudyModels
from benchmarks.peers.wire import Found, Image, answer_lines


def main() -> None:
    """Load both approaches and answer requests."""
    models = {pipeline: StudyModels(pipeline, chunk=1) for pipeline in ("yolo", "yolo_resnet")}

    def find(pipeline: str, image: Image) -> Found:
        return models[pipeline].find([image])[0]

    answer_lines(find)


if __name__ == "__main__":
    main()
