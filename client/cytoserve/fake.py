"""A fake server for tests of code that uses cytoserve.

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

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cytoserve import contract
from cytoserve.cells import Cells
from cytoserve.codec import cards, foregrounds, instances, prompted
from cytoserve.codec.cards import LearnedAppearance, LearnedScale, ModelCard
from cytoserve.errors import PipelineNotServed
from cytoserve.foreground import Foreground
from cytoserve.prompts import Prompts
from cytoserve.transport import Request, ServerInfo, Tensors

Finder = Callable[[NDArray[np.uint16]], Cells]
"""Function: frame ``[H, W, C]`` uint16 -> its cells."""


ForegroundFinder = Callable[[NDArray[np.uint16]], Foreground]
"""Function: frame ``[H, W, C]`` uint16 -> its foreground, ``[H, W]``."""


_PROMPTED_NAMES = ("cell",)
_HALF_A_PIXEL = np.array([-0.5, -0.5, 0.5, 0.5], np.float32)


class FakeServer:
    """A transport for both clients that answers like a server, through the same codec.

    Score threshold and ``max_cells`` act as on a server; boxes are not compared for overlap. The
    probability threshold determines the mask, and drops centres with lower scores. The answer to a
    prompt is the cell whose box fits best, or an empty mask of quality 0 if no cell fits.

    Args:
        cells: the cells of every frame, or a function from the frame to its cells. Given cells
            are returned for a frame if the middle of their box lies in it. A frame too large for
            one request arrives in windows: a function gets each window, given cells are moved into
            it. An error that the function raises reaches the caller, so error handling can be
            tested. None: no instance or prompted pipeline is served.
        class_names: the classes on the cards of instance pipelines; needed with a function.
        pipelines: the served pipelines; by default all that have an answer.
        foreground: the foreground of every frame, cropped or padded with 0 if a frame has another
            size, or a function from the frame to its foreground. A frame too large for one request
            reaches the function in windows. None: no semantic pipeline is served.
        threshold: the threshold on the cards of all pipelines except prompted ones. None: the cards
            have none, and clients use the default of the contract.
        scale: the scale on the cards of instance pipelines. None: the cards have none, and one
            frame pixel is one network pixel.
        appearance: what the training frames look like, on the cards of instance pipelines. None:
            the cards do not tell.
        versions: versions of the pipelines that callers may ask for; all answer alike.

    Attributes:
        requests: all inference requests so far, including those for cards.

    Raises:
        ValueError: there is no answer at all, or none for one of the pipelines.
    """

    def __init__(
        self,
        cells: Cells | Finder | None = None,
        class_names: tuple[str, ...] | None = None,
        pipelines: tuple[str, ...] | None = None,
        foreground: Foreground | ForegroundFinder | None = None,
        threshold: float | None = None,
        scale: LearnedScale | None = None,
        appearance: LearnedAppearance | None = None,
        versions: Collection[int] = (),
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
        self._threshold, self._scale, self._appearance = threshold, scale, appearance
        self._version_names = {
            contract.version_name(model, version): model
            for name in self._pipelines
            for model in (name, contract.PIPELINES[name].card)
            for version in versions
        }
        self.requests: list[Request] = []

    async def infer(self, request: Request, timeout: float) -> Tensors:  # noqa: D102
        self.requests.append(request)
        model = self._version_names.get(request.model, request.model)
        request = replace(request, model=model)
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
        return self._version_names.get(model, model) in self._pipelines

    async def execution(self, model: str, timeout: float) -> str:
        """Return an empty text: every model is run as usual."""
        return ""

    async def server_info(self, timeout: float) -> ServerInfo:  # noqa: D102
        return ServerInfo("fake", "0")

    async def sleep(self, seconds: float) -> None:
        """Return at once, to keep tests fast."""

    async def close(self) -> None:
        """Do nothing, because there is no connection."""

    def _card(self, pipeline: contract.Pipeline) -> ModelCard:
        if pipeline.is_prompted:
            return ModelCard(pipeline.name, _PROMPTED_NAMES)
        if pipeline.is_semantic:
            return ModelCard(pipeline.name, (self._foreground_name,), threshold=self._threshold)
        return ModelCard(
            pipeline.name,
            self._class_names,
            threshold=self._threshold,
            scale=self._scale,
            appearance=self._appearance,
        )

    def _cells(self, request: Request) -> Cells:
        assert self._find is not None  # otherwise the pipeline is not served
        frame, point = instances.decode_request(request)
        height, width = frame.shape[:2]
        cells = self._find(frame, request.origin)
        cells = cells[cells.scores >= np.float32(point.score_threshold)]
        found, cells = cells.found, cells[: point.max_cells]
        masks = {tensor.name: tensor for tensor in contract.PIPELINES[request.model].outputs}
        patches = _sized(cells.patches, masks[contract.MASKS.name].dims[-1])
        return replace(cells, patches=patches, found=found, frame_shape=(height, width))

    def _prompted(self, request: Request) -> Cells:
        assert self._find is not None  # otherwise the pipeline is not served
        frame, prompts = prompted.decode_request(request)
        cells = self._find(frame, request.origin)
        return _answered(cells, prompts, (frame.shape[0], frame.shape[1]))

    def _foreground(self, request: Request) -> Foreground:
        assert self._find_foreground is not None  # otherwise the pipeline is not served
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
    """Return the best cell for every prompt, by the boxes' IoU; a point counts as a 1 px box."""
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
    """Resize patches to ``[N, size, size]``, because M differs between pipelines."""
    if patches.shape[1:] == (size, size):
        return patches
    resized = [cv2.resize(patch, (size, size)) for patch in patches]
    return np.array(resized, np.uint8).reshape(-1, size, size)


def _overlaps(box: NDArray[np.float32], boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the IoU of one box with N others."""
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
    """Return the cells whose box has its middle in a part of a frame, in pixels of the part."""
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
    """Crop a part ``shape`` of a foreground, padded with 0 below and to the right."""
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
        ValueError: labels and class_ids do not match.
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
