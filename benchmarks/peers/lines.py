"""A program that finds cells and is asked by lines: the server's end, and the asker's.

A request is one line of JSON, ``{"pipeline": ..., "file": ..., "whole": ...}``. The answer is one
line: the cells if ``whole``, otherwise how many they are, so that a program which needs no wire is
not timed with one. The first line that the program writes says that it is ready.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.peers.found import Found

READY = "ready"

Image = npt.NDArray[np.uint8]


def answer_lines(find: Callable[[str, Image], Found]) -> None:
    """Answer the lines of standard input until it ends.

    Args:
        find: answers a pipeline's name and an 8-bit BGR image ``[H, W, 3]``.
    """
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer
    print(READY, file=answers)
    for line in sys.stdin:
        request = json.loads(line)
        found = find(request["pipeline"], read_once(request["file"]))
        print(json.dumps(found.as_json() if request["whole"] else len(found)), file=answers)


@cache
def read_once(file: str) -> Image:
    """The BGR image ``[H, W, 3]`` of a file, read when it is first asked for."""
    image: Any = cv2.imread(file, cv2.IMREAD_COLOR)
    if image is None:
        raise FileNotFoundError(file)
    bgr: Image = image
    return bgr
