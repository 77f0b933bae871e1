"""Prompts for SAM: boxes, clicks, coarse masks.

::

    Prompts(boxes=[(10, 12, 60, 70), (80, 15, 120, 66)])  # two cells, one box each
    Prompts(points=[[(35, 41), (58, 20)]], point_labels=[[1, 0]])  # one cell: in it, not in it
    Prompts(boxes=[(10, 12, 60, 70), None], points=[None, [(99, 40)]])  # by a box, by a click
    Prompts.from_masks(masks)  # coarse masks to be refined
    Prompts.from_cells(client.segment(frame, "maskrcnn"))  # another pipeline's cells

Coordinates are continuous frame pixels, (x, y): pixel ``i`` spans ``[i, i + 1)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from cytoserve.cells import Cells
from cytoserve.contract import DEFAULT_MAX_CELLS, MASK_SIZE, POINT_LABELS
from cytoserve.errors import InvalidPrompts

MAX_PROMPTS = DEFAULT_MAX_CELLS
"""Maximum number of cells per request; the server caches the frame's embedding for the next."""

MAX_POINTS = 64
"""Maximum number of points per cell."""

BACKGROUND, FOREGROUND, NONE = (POINT_LABELS[name] for name in ("background", "foreground", "none"))

Rows = Sequence[ArrayLike | None] | NDArray[Any]
"""One entry per cell, or None for a cell without one."""


@dataclass(frozen=True, eq=False, init=False)
class Prompts:
    """N prompts, one per cell; every array is read-only.

    A cell has a box, or points, or both; a coarse mask needs a box. The constructor refuses invalid
    prompts; :meth:`check_for` refuses prompts outside a frame.

    Args:
        boxes: N times (x0, y0, x1, y1), or None for a cell without a box.
        points: N times ``[P, 2]``, (x, y), or None for a cell without points. P may differ between
            cells, up to ``MAX_POINTS``.
        point_labels: N times ``[P]``: 1 in the cell (foreground), 0 not in it (background), or
            None for a cell without points. By default all points are in their cells.
        masks: uint8 ``[N, M, M]``, M = ``contract.MASK_SIZE``: the probability 0..255 inside the
            cell's box, placed on the frame as in :mod:`cytoserve.patches`. Either all cells have
            one, or none has.

    Attributes:
        boxes: float32 ``[N, 4]``, NaN for a cell without a box.
        points: float32 ``[N, P, 2]``, NaN where a cell has fewer points than others.
        point_labels: int32 ``[N, P]``, -1 where a cell has fewer points than others.
        masks: uint8 ``[C, M, M]``; C = N, or 0 without coarse masks.

    Raises:
        InvalidPrompts: there is no prompt, or a row is unclear; the message names the row, counted
            from 0.
    """

    boxes: NDArray[np.float32]
    points: NDArray[np.float32]
    point_labels: NDArray[np.int32]
    masks: NDArray[np.uint8]

    def __init__(
        self,
        boxes: Rows | None = None,
        points: Rows | None = None,
        point_labels: Rows | None = None,
        masks: NDArray[np.uint8] | None = None,
    ) -> None:
        if masks is not None and boxes is None:
            raise InvalidPrompts(
                "A coarse mask has a box, which it spans; given: masks without boxes. Pass both, "
                "or call Prompts.from_masks with masks as large as the frame."
            )
        number = _row_count(boxes=boxes, points=points, point_labels=point_labels)
        box_rows, point_rows, label_rows = (
            [None] * number if given is None else list(given)
            for given in (boxes, points, point_labels)
        )
        coarse = np.empty((0, MASK_SIZE, MASK_SIZE), np.uint8) if masks is None else masks
        rows = [
            _row(row, *given)
            for row, given in enumerate(zip(box_rows, point_rows, label_rows, strict=True))
        ]
        if masks is not None:
            _check_masks(coarse, [box is not None for box, _, _ in rows])
        most = max(len(labels) for _, _, labels in rows)
        filled: dict[str, NDArray[Any]] = {
            "boxes": np.full((number, 4), np.nan, np.float32),
            "points": np.full((number, most, 2), np.nan, np.float32),
            "point_labels": np.full((number, most), NONE, np.int32),
        }
        for row, (box, places, labels) in enumerate(rows):
            if box is not None:
                filled["boxes"][row] = box
            filled["points"][row, : len(labels)] = places
            filled["point_labels"][row, : len(labels)] = labels
        for name, array in {**filled, "masks": coarse.copy()}.items():
            array.flags.writeable = False
            object.__setattr__(self, name, array)

    @classmethod
    def from_masks(cls, masks: NDArray[Any]) -> Prompts:
        """Return prompts made from coarse masks of a whole frame: their boxes and shapes.

        Args:
            masks: ``[N, H, W]``, bool, or a number that is 0 outside the cell.

        Raises:
            InvalidPrompts: the shape or dtype is wrong, or a mask has no pixel.
        """
        masks = np.asarray(masks)
        if masks.ndim != 3 or masks.dtype.kind not in "bui":
            raise InvalidPrompts(
                "Coarse masks of a frame are [N, H, W], bool or whole numbers; given: "
                f"{_described(masks)}. Of a label image: labels == numpy.unique(labels)[1:, None, "
                "None]."
            )
        boxes = np.empty((len(masks), 4), np.float32)
        patches = np.empty((len(masks), MASK_SIZE, MASK_SIZE), np.uint8)
        for row, mask in enumerate(masks):
            x, y, width, height = cv2.boundingRect((mask != 0).astype(np.uint8))
            if width == 0:
                raise _refusal("A coarse mask has at least one pixel", "none", row, "Leave it out")
            inside = np.uint8(255) * (mask[y : y + height, x : x + width] != 0)
            boxes[row] = x, y, x + width, y + height
            patches[row] = _resampled(inside, boxes[row], boxes[row])
        return cls(boxes=boxes, masks=patches)

    @classmethod
    def from_cells(cls, cells: Cells) -> Prompts:
        """Return the boxes of another pipeline's cells, and their patches as coarse masks.

        Boxes and patches are clipped to the frame.

        Raises:
            InvalidPrompts: there is no cell, or a cell lies completely outside the frame.
        """
        height, width = cells.frame_shape
        boxes = np.clip(cells.boxes, 0, np.array([width, height] * 2, np.float32))
        patches = np.empty((len(cells), MASK_SIZE, MASK_SIZE), np.uint8)
        for row, given in enumerate(zip(cells.patches, cells.boxes, boxes, strict=True)):
            patches[row] = _resampled(*given)
        return cls(boxes=boxes, masks=patches)

    def __len__(self) -> int:
        return len(self.boxes)

    def __repr__(self) -> str:
        boxed, clicked = (int(have.sum()) for have in (self.has_box, self.point_counts > 0))
        return (
            f"<Prompts {len(self)}: {boxed} boxes, {clicked} with points, {len(self.masks)} masks>"
        )

    @property
    def has_box(self) -> NDArray[np.bool_]:
        """Return which cells have a box: bool ``[N]``."""
        given: NDArray[np.bool_] = ~np.isnan(self.boxes[:, 0])
        return given

    @property
    def point_counts(self) -> NDArray[np.int64]:
        """Number of points of every cell: ``[N]``."""
        counts: NDArray[np.int64] = np.count_nonzero(self.point_labels != NONE, axis=1)
        return counts

    def bounding_boxes(self) -> NDArray[np.float32]:
        """Return every prompt's extent, float32 ``[N, 4]``: its box, or that around its points.

        The points in the cell count if there are any, otherwise all points.
        """
        around = self.boxes.copy()
        for row in np.flatnonzero(~self.has_box):
            labels = self.point_labels[row]
            wanted = labels == FOREGROUND if FOREGROUND in labels else labels != NONE
            points = self.points[row][wanted]
            around[row] = *points.min(axis=0), *points.max(axis=0)
        return around

    def entries(self) -> list[dict[str, Any]]:
        """Return the prompts in JSON form, one object per cell, without coarse masks.

        The keys are those that :func:`cytoserve.cli.prompt.read_prompts` reads.
        """
        entries: list[dict[str, Any]] = []
        for row, count in enumerate(self.point_counts):
            entries.append({"box": self.boxes[row].tolist()} if self.has_box[row] else {})
            if count:
                entries[-1]["points"] = self.points[row, :count].tolist()
                entries[-1]["point_labels"] = self.point_labels[row, :count].tolist()
        return entries

    def check_for(self, frame_shape: tuple[int, int]) -> None:
        """Check that all boxes and points lie in a frame ``(H, W)``; its edge is part of it.

        Raises:
            InvalidPrompts: a box or point lies outside; the message names the first.
        """
        height, width = frame_shape
        extent = np.array([width, height], np.float32)
        corners = self.boxes.reshape(-1, 2, 2)
        for what, places in (("box", corners), ("point", self.points)):
            outside = ((places < 0) | (places > extent)).any(axis=2)  # NaN counts as inside
            for row in np.flatnonzero(outside.any(axis=1)):
                given = places[row] if what == "box" else places[row][outside[row]][0]
                raise _refusal(
                    f"A {what} lies in the frame, x from 0 to {width} and y from 0 to {height}",
                    _numbers(given),
                    row,
                    "Check the order, x before y, and that the frame is the one it was made on",
                )


def _row_count(**given: Rows | None) -> int:
    """Return N, which must be the same for all given arguments."""
    try:
        counts = {name: len(rows) for name, rows in given.items() if rows is not None}
    except TypeError as error:
        raise InvalidPrompts(
            f"Boxes, points and their labels are sequences, one entry a cell; given: {error}. Add "
            "a bracket: Prompts(boxes=[(x0, y0, x1, y1)])."
        ) from error
    if not counts.get("boxes", 0) and not counts.get("points", 0):
        raise InvalidPrompts(
            "A request has at least one prompt, a box or points; given: no prompts. Pass "
            "Prompts(boxes=[(x0, y0, x1, y1)]) or Prompts(points=[[(x, y)]])."
        )
    if len(set(counts.values())) > 1:
        words = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise InvalidPrompts(
            f"Boxes, points and their labels have one row a cell; given: {words}. Put None in "
            "place of what a cell does not have."
        )
    number = next(iter(counts.values()))
    if number > MAX_PROMPTS:
        raise InvalidPrompts(
            f"A request has at most {MAX_PROMPTS} prompts; given: {number}. Ask several times: "
            "the server keeps what it knows of the frame."
        )
    return number


def _row(
    row: int, box: ArrayLike | None, points: ArrayLike | None, labels: ArrayLike | None
) -> tuple[NDArray[np.float32] | None, NDArray[np.float32], NDArray[np.int32]]:
    """Check and return box, points and labels of one cell."""
    if points is None and labels is not None:
        raise _refusal("Labels are those of points", "labels without points", row, "Add the points")
    places = _floats(np.empty((0, 2)) if points is None else points, row, "Points are [P, 2]")
    places = places.reshape(0, 2) if places.size == 0 else places
    if places.ndim != 2 or places.shape[1] != 2:
        raise _refusal("Points are [P, 2], (x, y)", f"shape {places.shape}", row, "Add a bracket")
    if box is None and not len(places):
        raise _refusal("A prompt is a box, or points", "no prompts", row, "Leave the row out")
    if len(places) > MAX_POINTS:
        rule = f"A cell has at most {MAX_POINTS} points"
        raise _refusal(rule, str(len(places)), row, "Leave some out")
    if not np.isfinite(places).all():
        given = _numbers(places[~np.isfinite(places).all(axis=1)][0])
        raise _refusal("A point is two finite numbers, (x, y)", given, row, "Leave it out")
    rule, remedy = "Every point has one label", "Give one a point"
    try:
        kinds = np.full(len(places), FOREGROUND) if labels is None else np.asarray(labels)
    except ValueError as error:  # labels beside lists of labels
        raise _refusal(rule, repr(labels), row, remedy) from error
    if kinds.shape != (len(places),):
        given = f"{len(places)} points, labels of shape {kinds.shape}"
        raise _refusal(rule, given, row, remedy)
    unknown = kinds[~np.isin(kinds, (BACKGROUND, FOREGROUND))]
    if len(unknown):
        rule = f"A point's label is {FOREGROUND}, in the cell, or {BACKGROUND}, not in it"
        raise _refusal(rule, str(unknown[0]), row, "Use one of them")
    return None if box is None else _box(box, row), places, kinds.astype(np.int32)


def _box(box: ArrayLike, row: int) -> NDArray[np.float32]:
    corners = _floats(box, row, "A box is (x0, y0, x1, y1)")
    rule = "A box is four finite numbers (x0, y0, x1, y1), x0 < x1 and y0 < y1"
    given = _numbers(corners)
    if corners.shape != (4,):
        raise _refusal(rule, f"shape {corners.shape}, {given}", row, "Pass its two corners")
    if not np.isfinite(corners).all():
        raise _refusal(rule, given, row, "Put None in place of a box that there is not")
    size = corners[2:] - corners[:2]
    if (size < 0).any():
        remedy = "Order its corners: the upper left one first, and x before y"
        raise _refusal(rule, f"{given}, an inverted box", row, remedy)
    if (size == 0).any():
        raise _refusal(rule, f"{given}, a box without area", row, "Prompt by a point instead")
    return corners


def _check_masks(masks: Any, boxed: Sequence[bool]) -> None:
    wanted = (len(boxed), MASK_SIZE, MASK_SIZE)
    if not isinstance(masks, np.ndarray) or masks.dtype != np.uint8 or masks.shape != wanted:
        raise InvalidPrompts(
            f"Coarse masks are uint8 {list(wanted)}, one a prompt, each spanning its box; given: "
            f"{_described(masks)}. Of masks as large as the frame call Prompts.from_masks, of "
            "another pipeline's cells Prompts.from_cells."
        )
    for row, has_box in enumerate(boxed):
        if not has_box:
            remedy = "Pass the box that the mask spans"
            raise _refusal("A coarse mask has a box", "a mask without a box", row, remedy)


def _resampled(
    patch: NDArray[np.uint8], spanned: NDArray[np.float32], wanted: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """Return the part ``wanted`` of a patch that spans the box ``spanned``, as ``[M, M]``.

    Sampling is bilinear at the centres of the new pixels, as in :mod:`cytoserve.patches`.
    """
    places = []
    for axis, length in ((0, patch.shape[1]), (1, patch.shape[0])):
        low, high = float(wanted[axis]), float(wanted[axis + 2])
        start, extent = float(spanned[axis]), max(float(spanned[axis + 2] - spanned[axis]), 1e-30)
        centres = low + (np.arange(MASK_SIZE) + 0.5) * ((high - low) / MASK_SIZE)
        places.append(np.clip((centres - start) * (length / extent) - 0.5, 0, length - 1))
    columns, rows = np.meshgrid(*(place.astype(np.float32) for place in places))
    return np.asarray(cv2.remap(patch, columns, rows, cv2.INTER_LINEAR), np.uint8)


def _floats(given: ArrayLike, row: int, rule: str) -> NDArray[np.float32]:
    try:
        with np.errstate(over="ignore"):  # too large values become infinite and are refused
            return np.asarray(given, dtype=np.float64).astype(np.float32)
    except (TypeError, ValueError) as error:
        raise _refusal(rule, repr(given), row, "Pass numbers, in frame pixels") from error


def _refusal(rule: str, given: str, row: int, remedy: str) -> InvalidPrompts:
    return InvalidPrompts(f"{rule}; given: {given}, in row {row}. {remedy}.")


def _numbers(values: NDArray[Any]) -> str:
    return f"({', '.join(f'{value:g}' for value in values.ravel())})"


def _described(value: Any) -> str:
    if not isinstance(value, np.ndarray):
        return type(value).__name__
    return f"{value.dtype} {list(value.shape)}"
