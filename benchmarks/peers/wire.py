"""The protocol between the processes of contenders: requests and found cells, as lines.

A request is one line of JSON, ``{"pipeline": ..., "file": ..., "whole": ...}``. The answer is one
line: the cells if ``whole``, otherwise how many they are, so that a program which needs no wire is
not timed with one. The first line that the program writes says that it is ready.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Found:
    """The cells that were found in one frame."""

    boxes: npt.NDArray[np.float32]
    """Boxes ``[N, 4]``, (x0, y0, x1, y1) in frame pixels."""
    class_ids: npt.NDArray[np.int64]
    """Class of each cell, ``[N]``."""
    outlines: list[npt.NDArray[np.float32]]
    """N outlines ``[P, 2]``, (x, y) in frame pixels; empty for a cell without a pixel."""

    def __len__(self) -> int:
        return len(self.boxes)

    def as_json(self) -> dict[str, Any]:
        """Return the cells as lists."""
        return {
            "boxes": self.boxes.tolist(),
            "class_ids": self.class_ids.tolist(),
            "outlines": [outline.tolist() for outline in self.outlines],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Found:
        """Return the cells that `as_json` wrote."""
        return cls(
            np.array(value["boxes"], np.float32).reshape(-1, 4),
            np.array(value["class_ids"], np.int64),
            [np.array(outline, np.float32).reshape(-1, 2) for outline in value["outlines"]],
        )


READY = "ready"
"""First line that a program writes."""

Image = npt.NDArray[np.uint8]


def answer_lines(find: Callable[[str, Image], Found]) -> None:
    """Answer the lines of standard input until it ends.

    Args:
        find: function of a pipeline's name and an 8-bit BGR image ``[H, W, 3]``.
    """
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # libraries may print, which is no answer
    print(READY, file=answers)
    for line in sys.stdin:
        request = json.loads(line)
        found = find(request["pipeline"], read_once(request["file"]))
        print(json.dumps(found.as_json() if request["whole"] else len(found)), file=answers)


@cache
def read_once(file: str) -> Image:
    """Return the BGR image ``[H, W, 3]`` of a file, read on the first call only."""
    image: Any = cv2.imread(file, cv2.IMREAD_COLOR)
    if image is None:
        raise FileNotFoundError(file)
    bgr: Image = image
    return bgr
