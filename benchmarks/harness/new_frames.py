"""Frames that a server has not seen, so that no answer comes from its response cache."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[Any]
Answer = TypeVar("Answer")

_SHIFTS = itertools.count(1)
"""Of the whole process: what one measurement has shown to the server, the next must not."""


def new_frames(image: Image, count: int) -> Iterator[Image]:
    """Yield ``count`` frames of the same pixels ``[H, W]`` or ``[H, W, C]``, each shifted anew.

    The same cells at other places: the same work, but another frame, until all ``H * W`` shifts
    are used up.
    """
    height, width = image.shape[:2]
    for _ in range(count):
        down, right = divmod(next(_SHIFTS), width)
        yield np.roll(image, (down % height, right), axis=(0, 1))


def each_time_new(run: Callable[[Image], Answer], image: Image, times: int) -> Callable[[], Answer]:
    """Bind ``run`` to another frame of :func:`new_frames` at each of its calls.

    The frames are made beforehand, outside of any time that is taken.
    """
    frames = iter(list(new_frames(image, times)))
    return lambda: run(next(frames))
