"""A server that is none, for tests of code that uses cytoserve.

::

    cells = cytoserve.cells_from_labels(labels, class_ids, ("RBC", "WBC"))
    client = cytoserve.Client(transport=cytoserve.FakeServer(cells))
    assert len(client.segment(frame)) == len(cells)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cytoserve import codec, contract
from cytoserve.cells import Cells
from cytoserve.codec import Card
from cytoserve.errors import PipelineNotServed
from cytoserve.transport import Request, ServerInfo, Tensors

Finder = Callable[[NDArray[np.uint16]], Cells]
"""Frame ``[H, W, C]`` uint16 -> its cells."""


class FakeServer:
    """Answers like a server, through the same codec; a transport for both clients.

    Score threshold and ``max_cells`` act as on a server; boxes are not compared for overlap.

    Args:
        cells: the cells of every frame, or a function from the frame to its cells. An error
            that the function raises reaches the caller, so that error handling can be tested.
        class_names: the classes on the cards; needed with a function.
        pipelines: the pipelines that it serves; all by default.

    Attributes:
        requests: every inference so far, those for cards included.
    """

    def __init__(
        self,
        cells: Cells | Finder,
        class_names: tuple[str, ...] | None = None,
        pipelines: tuple[str, ...] = tuple(contract.PIPELINES),
    ) -> None:
        if isinstance(cells, Cells):
            self._find: Finder = lambda frame: cells
            class_names = class_names or cells.class_names
        else:
            self._find = cells
        if not class_names:
            raise ValueError(
                "A fake server that is given a function must be told the class_names; "
                "given: none. Pass FakeServer(function, class_names=(...))."
            )
        self._class_names = class_names
        self._pipelines = pipelines
        self.requests: list[Request] = []

    async def infer(self, request: Request, timeout: float) -> Tensors:  # noqa: D102
        self.requests.append(request)
        for name in self._pipelines:
            if request.model == contract.PIPELINES[name].card:
                return codec.encode_card(Card(name, self._class_names))
            if request.model == name:
                return codec.encode_answer(self._cells(request), request)
        raise PipelineNotServed(request.model)

    async def is_ready(self, model: str, timeout: float) -> bool:  # noqa: D102
        return model in self._pipelines

    async def server_info(self, timeout: float) -> ServerInfo:  # noqa: D102
        return ServerInfo("fake", "0")

    async def sleep(self, seconds: float) -> None:
        """Do not wait: tests are fast."""

    async def close(self) -> None:
        """There is no connection."""

    def _cells(self, request: Request) -> Cells:
        frame, settings = codec.decode_request(request)
        height, width = frame.shape[:2]
        cells = self._find(frame)
        cells = cells[cells.scores >= settings.score_threshold]
        return replace(cells[: settings.max_cells], found=cells.found, frame_shape=(height, width))


def cells_from_labels(
    labels: NDArray[Any],
    class_ids: NDArray[Any],
    class_names: tuple[str, ...],
) -> Cells:
    """Make cells from a label image, as if a pipeline had found them with certainty.

    Args:
        labels: integers ``[H, W]``: 0 background, ``i`` the i-th cell from 1 on, without gaps.
        class_ids: integers ``[N]``, the class of every cell.
        class_names: the K classes.

    Raises:
        ValueError: labels and class_ids do not fit each other.
    """
    number, size = len(class_ids), contract.MASK_SIZE
    if set(np.unique(labels)) - {0} != set(range(1, number + 1)):
        raise ValueError(
            f"A label image numbers its cells from 1 to N, one class_id each; given: {number} "
            f"class_ids and labels up to {labels.max()}. Number the cells anew."
        )
    low, high = np.full((number, 2), max(labels.shape)), np.zeros((number, 2), int)
    places = np.stack(np.nonzero(labels)[::-1], axis=1)  # x, y
    owners = labels[labels != 0].astype(int) - 1
    np.minimum.at(low, owners, places)
    np.maximum.at(high, owners, places + 1)
    patches = np.zeros((number, size, size), np.uint8)
    for index, ((x0, y0), (x1, y1)) in enumerate(zip(low, high, strict=True)):
        mask = np.uint8(255) * (labels[y0:y1, x0:x1] == index + 1)
        patches[index] = cv2.resize(mask, (size, size))
    return Cells(
        boxes=np.concatenate([low, high], axis=1).astype(np.float32),
        scores=np.ones(number, np.float32),
        class_ids=class_ids.astype(np.int32),
        class_probs=np.eye(len(class_names), dtype=np.float32)[class_ids],
        patches=patches,
        frame_shape=(labels.shape[0], labels.shape[1]),
        class_names=class_names,
        found=number,
    )
