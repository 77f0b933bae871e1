"""A server that is none, for tests of code that uses cytoserve.

::

    cells = cytoserve.cells_from_labels(labels, class_ids, ("RBC", "WBC"))
    client = cytoserve.Client(transport=cytoserve.FakeServer(cells))
    assert len(client.segment(frame)) == len(cells)

    foreground = cytoserve.Foreground.from_probability(probability)
    client = cytoserve.Client(transport=cytoserve.FakeServer(foreground=foreground))
    assert client.foreground(frame).confluency == foreground.confluency

    client = cytoserve.Client(transport=cytoserve.FakeServer(cells))
    prompts = cytoserve.Prompts.from_cells(cells)
    assert len(client.prompt(frame, prompts)) == len(prompts)

    scale = cytoserve.LearnedScale(network_scale=2, cell_diameter_px=30, largest_cell_px=60)
    client = cytoserve.Client(transport=cytoserve.FakeServer(cells, scale=scale))
    assert client.segment(frame, cell_diameter_px=15).scale == 2
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cytoserve import contract
from cytoserve.cells import Cells
from cytoserve.codec import cards, foregrounds, instances, prompted
from cytoserve.codec.cards import LearnedScale, ModelCard
from cytoserve.errors import PipelineNotServed
from cytoserve.foreground import Foreground
from cytoserve.prompts import Prompts
from cytoserve.transport import Request, ServerInfo, Tensors

Finder = Callable[[NDArray[np.uint16]], Cells]
"""Frame ``[H, W, C]`` uint16 -> its cells."""


ForegroundFinder = Callable[[NDArray[np.uint16]], Foreground]
"""Frame ``[H, W, C]`` uint16 -> its foreground, ``[H, W]``."""


_PROMPTED_NAMES = ("cell",)
_HALF_A_PIXEL = np.array([-0.5, -0.5, 0.5, 0.5], np.float32)


class FakeServer:
    """Answers like a server, through the same codec; a transport for both clients.

    Score threshold and ``max_cells`` act as on a server; boxes are not compared for overlap. The
    probability threshold makes the mask anew, and drops centres that score below it. A prompt is
    answered by the cell whose box fits it best, or by an empty mask of quality 0 where none is.

    Args:
        cells: the cells of every frame, or a function from the frame to its cells. Of ready cells
            a frame gets those whose box has its middle in it. A frame beyond one request comes
            window by window: a function gets each window, ready cells are moved into it. An error
            that the function raises reaches the caller, so that error handling can be tested.
            None: no instance pipeline is served, and no prompted one.
        class_names: the classes on the cards of instance pipelines; needed with a function.
        pipelines: the pipelines that it serves; by default all that it has an answer for.
        foreground: the foreground of every frame, cut or continued with 0 where a frame has
            another size, or a function from the frame to its foreground, which gets a frame
            beyond one request window by window. None: no semantic pipeline is served.
        threshold: the threshold on the cards of all but prompted pipelines; None: the cards tell
            none, and clients take the default of the contract.
        scale: the scale on the cards of instance pipelines; None: the cards tell none, and frames
            go to the network pixel for pixel.

    Attributes:
        requests: every inference so far, those for cards included.

    Raises:
        ValueError: nothing to answer with, or a pipeline without an answer.
    """

    def __init__(
        self,
        cells: Cells | Finder | None = None,
        class_names: tuple[str, ...] | None = None,
        pipelines: tuple[str, ...] | None = None,
        foreground: Foreground | ForegroundFinder | None = None,
        threshold: float | None = None,
        scale: LearnedScale | None = None,
    ) -> None:
        self._find = _finder(cells)
        self._find_foreground = _foreground_finder(foreground)
        if isinstance(cells, Cells):
            class_names = class_names or cells.class_names
        if cells is not None and not class_names:
            raise ValueError(
                "A fake server that is given a function must be told the class_names; "
                "given: none. Pass FakeServer(function, class_names=(...))."
            )
        self._class_names = class_names or ()
        named = isinstance(foreground, Foreground)
        self._foreground_name = foreground.class_name if named else "foreground"  # type: ignore[union-attr]
        able = tuple(
            name
            for name, pipeline in contract.PIPELINES.items()
            if (self._find_foreground if pipeline.is_semantic else self._find) is not None
        )
        self._pipelines = able if pipelines is None else pipelines
        if not able or not set(self._pipelines) <= set(able):
            raise ValueError(
                f"A fake server has an answer for every pipeline that it serves; given: answers "
                f"for {', '.join(able) or 'none'}, to serve {', '.join(self._pipelines) or 'none'}."
                " Pass cells for instance pipelines, foreground=... for semantic ones."
            )
        self._threshold, self._scale = threshold, scale
        self.requests: list[Request] = []

    async def infer(self, request: Request, timeout: float) -> Tensors:  # noqa: D102
        self.requests.append(request)
        for name in self._pipelines:
            pipeline = contract.PIPELINES[name]
            if request.model == pipeline.card:
                return cards.encode_answer(self._card(pipeline))
            if request.model == name and pipeline.is_semantic:
                return foregrounds.encode_answer(self._foreground(request), request)
            if request.model == name and pipeline.is_prompted:
                return prompted.encode_answer(self._prompted(request), request)
            if request.model == name:
                return instances.encode_answer(self._cells(request), request)
        raise PipelineNotServed(request.model)

    async def is_ready(self, model: str, timeout: float) -> bool:  # noqa: D102
        return model in self._pipelines

    async def execution(self, model: str, timeout: float) -> str:
        """Every model is run as usual."""
        return ""

    async def server_info(self, timeout: float) -> ServerInfo:  # noqa: D102
        return ServerInfo("fake", "0")

    async def sleep(self, seconds: float) -> None:
        """Do not wait: tests are fast."""

    async def close(self) -> None:
        """There is no connection."""

    def _card(self, pipeline: contract.Pipeline) -> ModelCard:
        if pipeline.is_prompted:
            return ModelCard(pipeline.name, _PROMPTED_NAMES)
        if pipeline.is_semantic:
            return ModelCard(pipeline.name, (self._foreground_name,), threshold=self._threshold)
        return ModelCard(
            pipeline.name, self._class_names, threshold=self._threshold, scale=self._scale
        )

    def _cells(self, request: Request) -> Cells:
        assert self._find is not None  # or the pipeline is not served
        frame, point = instances.decode_request(request)
        height, width = frame.shape[:2]
        cells = self._find(frame, request.origin)
        cells = cells[cells.scores >= np.float32(point.score_threshold)]
        found, cells = cells.found, cells[: point.max_cells]
        masks = {tensor.name: tensor for tensor in contract.PIPELINES[request.model].outputs}
        patches = _sized(cells.patches, masks[contract.MASKS.name].dims[-1])
        return replace(cells, patches=patches, found=found, frame_shape=(height, width))

    def _prompted(self, request: Request) -> Cells:
        assert self._find is not None  # or the pipeline is not served
        frame, prompts = prompted.decode_request(request)
        cells = self._find(frame, request.origin)
        return _answered(cells, prompts, (frame.shape[0], frame.shape[1]))

    def _foreground(self, request: Request) -> Foreground:
        assert self._find_foreground is not None  # or the pipeline is not served
        frame, settings = foregrounds.decode_request(request)
        found = self._find_foreground(frame, request.origin)
        centres, scores = found.centres, found.centre_scores
        if centres is not None and scores is not None:
            kept = scores >= np.float32(settings.known_threshold)
            centres, scores = centres[kept], scores[kept]
        return Foreground.from_probability(
            found.probability, settings.known_threshold, found.class_name, centres, scores
        )


def _answered(cells: Cells, prompts: Prompts, frame_shape: tuple[int, int]) -> Cells:
    """The cell that fits every prompt best, by the boxes' IoU; a point counts as a box of 1 px."""
    number, size = len(prompts), contract.SAM_MASK_SIZE
    boxes, scores = prompts.bounding_boxes(), np.zeros(number, np.float32)
    patches = np.zeros((number, size, size), np.uint8)
    for row, hull in enumerate(boxes.copy() if len(cells) else ()):
        overlaps = _overlaps(hull + _HALF_A_PIXEL, cells.boxes)
        best = int(overlaps.argmax())
        if overlaps[best] > 0:
            boxes[row], scores[row] = cells.boxes[best], cells.scores[best]
            patches[row] = _sized(cells.patches[best : best + 1], size)[0]
    return Cells(
        boxes=boxes,
        scores=scores,
        class_ids=np.zeros(number, np.int32),
        class_probs=np.ones((number, 1), np.float32),
        patches=patches,
        frame_shape=frame_shape,
        class_names=_PROMPTED_NAMES,
        found=number,
    )


def _sized(patches: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Patches as ``[N, size, size]``: pipelines differ in M."""
    if patches.shape[1:] == (size, size):
        return patches
    resized = [cv2.resize(patch, (size, size)) for patch in patches]
    return np.array(resized, np.uint8).reshape(-1, size, size)


def _overlaps(box: NDArray[np.float32], boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """IoU of one box with N others."""
    corner = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    shared = corner.clip(min=0).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod()
    overlaps: NDArray[np.float32] = shared / np.maximum(areas - shared, 1e-6)
    return overlaps


def _finder(
    cells: Cells | Finder | None,
) -> Callable[[NDArray[np.uint16], tuple[int, int]], Cells] | None:
    if cells is None:
        return None
    if isinstance(cells, Cells):
        return lambda frame, origin: _cells_in(cells, origin, (frame.shape[0], frame.shape[1]))
    return lambda frame, origin: cells(frame)


def _cells_in(cells: Cells, origin: tuple[int, int], shape: tuple[int, int]) -> Cells:
    """The cells whose box has its middle in a part ``shape`` of a frame, in pixels of the part."""
    (top, left), (height, width) = origin, shape
    boxes = cells.boxes - np.array([left, top, left, top], np.float32)
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = ((middles >= 0) & (middles <= (width, height))).all(axis=1)
    return replace(cells, boxes=boxes)[inside]


def _foreground_finder(
    foreground: Foreground | ForegroundFinder | None,
) -> Callable[[NDArray[np.uint16], tuple[int, int]], Foreground] | None:
    if foreground is None:
        return None
    if isinstance(foreground, Foreground):
        return lambda frame, origin: _part(foreground, origin, (frame.shape[0], frame.shape[1]))
    return lambda frame, origin: foreground(frame)


def _part(foreground: Foreground, origin: tuple[int, int], shape: tuple[int, int]) -> Foreground:
    """Cut a part ``shape`` of a foreground, continued with 0 below and to the right."""
    (top, left), (height, width) = origin, shape
    known = foreground.probability[top : top + height, left : left + width]
    probability = np.zeros(shape, np.uint8)
    probability[: known.shape[0], : known.shape[1]] = known
    centres, scores = foreground.centres, foreground.centre_scores
    if centres is not None and scores is not None:
        centres = centres - np.array([left, top], np.float32)
        kept = ((centres >= 0) & (centres <= (width, height))).all(axis=1)
        centres, scores = centres[kept], scores[kept]
    return Foreground.from_probability(
        probability, foreground.threshold, foreground.class_name, centres, scores
    )


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
