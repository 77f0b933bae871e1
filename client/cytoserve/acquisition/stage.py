"""Where frames and cells lie on the microscope's stage.

Frame coordinates are those of :class:`cytoserve.Cells`: (x, y) in continuous pixels, x to the right
and y down, where pixel ``i`` spans ``[i, i + 1)``. The middle of a frame ``[H, W]`` is therefore
``(W / 2, H / 2)``.

Stage coordinates are (x, y) of the XY stage in micrometres, as Micro-Manager, pymmcore-plus and
useq report and take them. A point of the sample has the coordinates that the stage has while the
point is in the middle of the camera's field. So ``to_stage_um`` of a cell is the position to drive
to in order to see the cell in the middle::

    stage_um = position_um + A @ (point_px - middle_px)

``A`` is the linear part of the camera's affine, ``[[a, b], [d, e]]`` of the six numbers
``(a, b, c, d, e, f)`` that ``core.getPixelSizeAffine()`` returns and pymmcore-plus stores as
``pixel_size_affine``, in micrometres per pixel of the image, binning included. It holds scale,
rotation and mirroring, so any sign of any axis. The translation ``(c, f)`` is ignored: the affine
relates movements.

The sign is that of Micro-Manager itself: its double click brings a point to the middle by moving
the stage by ``+A @ (point_px - middle_px)``. `CenterAndDragListener.java` passes the negative of
this offset, and `XYNavigator.toStageSpace` negates it once more (micro-manager on GitHub,
package org.micromanager.internal.navigation). Without an affine, the stage's x and y run along the
image's x and y, as in Micro-Manager's own default affine ``(p, 0, 0, 0, p, 0)``. If your stage runs
the other way, calibrate the pixel size in Micro-Manager, or pass the affine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cytoserve.errors import InvalidSetting

if TYPE_CHECKING:
    from cytoserve.cells import Cells

_HALF_A_PIXEL = 0.5  # tables give a pixel's centre by its index

Affine = tuple[float, float, float, float, float, float]
"""Micro-Manager's affine ``(a, b, c, d, e, f)``: rows ``[a, b, c]`` and ``[d, e, f]``."""


@dataclass(frozen=True)
class StageTransform:
    """The relation between the pixels of one frame and the stage; see the module for conventions.

    Attributes:
        frame_shape: ``(H, W)`` of the frame in pixels.
        position_um: (x, y) of the stage while the frame was exposed, in micrometres.
        pixel_size_um: side of a frame pixel on the sample, in micrometres; used without ``affine``.
        affine: the camera's affine, which replaces the pixel size.
        middle_px: (x, y) of the pixel that lies at ``position_um``. None: the middle of the frame.
            A camera with a region of interest has the middle of its sensor elsewhere: pass
            ``(sensor_width / 2 - roi_x, sensor_height / 2 - roi_y)``.

    Raises:
        InvalidSetting: neither pixel size nor affine is given, or a number is unusable.
    """

    frame_shape: tuple[int, int]
    position_um: tuple[float, float]
    pixel_size_um: float | None = None
    affine: Affine | None = None
    middle_px: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        numbers: Sequence[Any] = (*self.position_um, *(self.middle_px or ()))
        if not all(math.isfinite(number) for number in numbers):
            raise InvalidSetting(
                f"Positions are finite numbers; given: position_um={self.position_um!r}, "
                f"middle_px={self.middle_px!r}. Read the position from the stage again."
            )
        matrix = self._matrix()
        if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < np.finfo(float).tiny:
            raise InvalidSetting(
                "A pixel has a size on the sample: pixel_size_um above 0, or an affine that can be "
                f"inverted; given: pixel_size_um={self.pixel_size_um!r}, affine={self.affine!r}. "
                "Calibrate the pixel size in the microscope's software, or pass it here."
            )

    def to_stage_um(self, points_px: ArrayLike) -> NDArray[np.float64]:
        """Return the stage coordinates of frame points.

        Args:
            points_px: ``[..., 2]``, (x, y), frame pixels.

        Returns:
            float64 ``[..., 2]``, (x, y), micrometres.
        """
        points: NDArray[np.float64] = np.asarray(points_px, np.float64) - self._middle()
        points = points @ self._matrix().T + np.asarray(self.position_um, np.float64)
        return points

    def to_frame_px(self, points_um: ArrayLike) -> NDArray[np.float64]:
        """Return the frame points of stage coordinates: the inverse of :meth:`to_stage_um`.

        Args:
            points_um: ``[..., 2]``, (x, y), micrometres.

        Returns:
            float64 ``[..., 2]``, (x, y), frame pixels; outside of the frame for what it does not
            show.
        """
        points: NDArray[np.float64] = np.asarray(points_um, np.float64)
        points = (points - np.asarray(self.position_um)) @ np.linalg.inv(self._matrix()).T
        return points + self._middle()

    def boxes_to_stage_um(self, boxes_px: ArrayLike) -> NDArray[np.float64]:
        """Return the boxes around frame boxes on the stage: upright, so larger if it is rotated.

        Args:
            boxes_px: ``[N, 4]``, (x0, y0, x1, y1), frame pixels.

        Returns:
            float64 ``[N, 4]``, (x0, y0, x1, y1) with x0 <= x1 and y0 <= y1, micrometres.
        """
        return _bounds(self.to_stage_um(_corners(boxes_px)))

    def boxes_to_frame_px(self, boxes_um: ArrayLike) -> NDArray[np.float64]:
        """Return the boxes around stage boxes in the frame; see :meth:`boxes_to_stage_um`.

        Args:
            boxes_um: ``[N, 4]``, (x0, y0, x1, y1), micrometres.

        Returns:
            float64 ``[N, 4]``, (x0, y0, x1, y1) with x0 <= x1 and y0 <= y1, frame pixels.
        """
        return _bounds(self.to_frame_px(_corners(boxes_um)))

    def _matrix(self) -> NDArray[np.float64]:
        """Return ``[2, 2]``: pixels to micrometres, both (x, y)."""
        if self.affine is not None:
            a, b, _, d, e, _ = self.affine
            return np.array([[a, b], [d, e]], np.float64)
        return np.eye(2) * (math.nan if self.pixel_size_um is None else self.pixel_size_um)

    def _middle(self) -> NDArray[np.float64]:
        height, width = self.frame_shape
        middle = (width / 2, height / 2) if self.middle_px is None else self.middle_px
        return np.asarray(middle, np.float64)


@dataclass(frozen=True, eq=False)
class CellsOnStage:
    """Where the N cells of a frame lie on the stage, in micrometres, in the order of the cells.

    Attributes:
        centres_um: float64 ``[N, 2]``, (x, y): the centroid of the cell's pixels in the label
            image, or the middle of its box if the cell owns no pixel.
        boxes_um: float64 ``[N, 4]``, (x0, y0, x1, y1): upright boxes on the stage.
        outlines_um: N arrays float64 ``[P, 2]``, (x, y); see :meth:`cytoserve.Cells.polygons`.
    """

    centres_um: NDArray[np.float64]
    boxes_um: NDArray[np.float64]
    outlines_um: list[NDArray[np.float64]]


def cells_on_stage(cells: Cells, stage: StageTransform) -> CellsOnStage:
    """Return where the cells of a frame lie on the stage.

    Raises:
        InvalidSetting: the transform is that of a frame of another size.
    """
    if tuple(stage.frame_shape) != tuple(cells.frame_shape):
        raise InvalidSetting(
            "Cells and stage belong to the same frame; given: cells of a frame of "
            f"{cells.frame_shape} px and a stage for {stage.frame_shape} px. Pass the stage of the "
            "same result."
        )
    table = cells.table()
    centres = np.stack([table["centroid-1"], table["centroid-0"]], axis=1) + _HALF_A_PIXEL
    middles = (cells.boxes[:, :2] + cells.boxes[:, 2:]).astype(np.float64) / 2
    return CellsOnStage(
        centres_um=stage.to_stage_um(np.where(np.isfinite(centres), centres, middles)),
        boxes_um=stage.boxes_to_stage_um(cells.boxes),
        outlines_um=[stage.to_stage_um(outline) for outline in cells.polygons()],
    )


def _corners(boxes: ArrayLike) -> NDArray[np.float64]:
    """Return the corners ``[N, 4, 2]`` of boxes ``[N, 4]``."""
    sides = np.asarray(boxes, np.float64).reshape(-1, 4)
    return sides[:, [[0, 1], [2, 1], [2, 3], [0, 3]]]


def _bounds(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the boxes ``[N, 4]`` around corners ``[N, 4, 2]``."""
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
