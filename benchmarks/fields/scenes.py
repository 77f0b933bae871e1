"""Renders scenes of any size, and crops, shifts and resizes a scene with its truth.

The cells are as large in pixels and as dense as in the fields that networks are trained on: `CELLS`
per `SIDE` x `SIDE` pixels, for every size of scene.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from cytoserve import Cells
from training.datasets.annotated import AnnotatedCell
from training.rendered import RenderSettings, render_frame

SIDE = 640
"""Side in pixels of the fields that networks are trained on."""

CELLS = 15
"""Number of cells in such a field."""

MIN_VISIBLE = 0.5
"""Minimum share of a cell's pixels that a crop must show for the cell to count."""

OFFSETS = ((1, 0), (0, 1), (3, 5), (8, 8), (16, 4), (4, 16), (13, 29), (31, 18))
"""(x, y) in pixels of the shifted versions: fractions and multiples of a network's stride."""

FACTORS = (0.5, 0.7, 1.5, 2.0)
"""Factors of the resized versions."""

Image = npt.NDArray[Any]
"""uint8 or uint16, ``[H, W]`` or ``[H, W, 3]`` RGB."""


@dataclass(frozen=True, eq=False)
class Scene:
    """A frame and its cells."""

    name: str
    image: Image
    cells: tuple[AnnotatedCell, ...]
    """Cells that must be found."""
    slivers: tuple[AnnotatedCell, ...] = ()
    """Cells of which a crop shows less than `MIN_VISIBLE`: finding them is neither right nor
    wrong, see `without_slivers`."""
    origin: tuple[int, int] = (0, 0)
    """(x, y) of the upper left pixel in the scene that this is a crop of, in pixels."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.image.shape[:2]
        return height, width


def cell_count(height: int, width: int) -> int:
    """Return the number of cells in a scene from its area: at least one."""
    return max(1, round(CELLS * height * width / SIDE**2))


def render_scene(height: int, width: int, seed: int) -> Scene:
    """Render a scene of the training's scale and density; the same seed gives the same bytes.

    Raises:
        CrowdedFrameError: the cells do not fit, for example if the scene is hardly larger than one.
    """
    settings = RenderSettings(height=height, width=width, cells=cell_count(height, width))
    image, cells = render_frame(settings, seed)
    return Scene(f"{width} x {height}, seed {seed}", image, cells)


# -- Crops ----------------------------------------------------------------------------------------


def crop(
    scene: Scene,
    x: int,
    y: int,
    height: int = SIDE,
    width: int = SIDE,
    least_visible: float = MIN_VISIBLE,
) -> Scene:
    """Cut a window out of a scene, together with its truth.

    A cell at the window's edge keeps its visible part. It is a sliver if that part is less than
    ``least_visible`` of the cell.

    Args:
        scene: a scene at least as large as the crop.
        x, y: upper left pixel of the window.
        height, width: size of the window in pixels.
        least_visible: share of a cell's pixels, 0..1.

    Raises:
        ValueError: the window is not inside the scene.
    """
    whole_height, whole_width = scene.shape
    if x < 0 or y < 0 or x + width > whole_width or y + height > whole_height:
        raise ValueError(
            f"A crop lies inside its scene of {whole_width} x {whole_height} pixels; given: "
            f"{width} x {height} at ({x}, {y}). Move it, or render a larger scene."
        )
    cells: list[AnnotatedCell] = []
    slivers = list(_cut(scene.slivers, x, y, height, width))
    for cell in scene.cells:
        for part in _cut([cell], x, y, height, width):
            enough = part.area >= least_visible * cell.area
            (cells if enough else slivers).append(part)
    return Scene(
        f"{scene.name}, {width} x {height} at ({x}, {y})",
        scene.image[y : y + height, x : x + width].copy(),
        tuple(cells),
        tuple(slivers),
        (scene.origin[0] + x, scene.origin[1] + y),
    )


def crops(scene: Scene, side: int = SIDE) -> list[Scene]:
    """Cut square crops that cover the scene, row by row; the last per row or column may overlap.

    Raises:
        ValueError: the scene is smaller than one crop.
    """
    height, width = scene.shape
    return [
        crop(scene, x, y, side, side) for y in _starts(height, side) for x in _starts(width, side)
    ]


def shifted(scene: Scene, offsets: Iterable[tuple[int, int]] = OFFSETS) -> list[Scene]:
    """Return the scene as a camera sees it after a move by each offset, all of the same size.

    They are crops, as large as the farthest offset allows. The crop at offset (0, 0) is their
    common reference: ``shifted(scene, [(0, 0), *OFFSETS])``.
    """
    offsets = list(offsets)
    far_x, far_y = (max(abs(offset[axis]) for offset in (*offsets, *OFFSETS)) for axis in (0, 1))
    height, width = scene.shape
    return [crop(scene, x, y, height - far_y, width - far_x) for x, y in offsets]


def without_slivers(found: Cells, scene: Scene) -> Cells:
    """Return the found cells without those that have more than half of their pixels on slivers."""
    if not scene.slivers:
        return found
    slivers = np.zeros(scene.shape, np.bool_)
    for cell in scene.slivers:
        height, width = cell.mask.shape
        slivers[cell.y : cell.y + height, cell.x : cell.x + width] |= cell.mask
    kept = [
        2 * np.count_nonzero(region.mask & slivers[region.rows, region.columns])
        <= np.count_nonzero(region.mask)
        for region in found.regions()
    ]
    return found[np.flatnonzero(kept)]


def _cut(
    cells: Iterable[AnnotatedCell], x: int, y: int, height: int, width: int
) -> Iterator[AnnotatedCell]:
    """Yield the visible parts of cells in a window, in the window's pixels."""
    for cell in cells:
        top, left = max(0, y - cell.y), max(0, x - cell.x)
        bottom, right = max(0, y + height - cell.y), max(0, x + width - cell.x)
        seen = cell.mask[top:bottom, left:right]
        if seen.any():
            place = {"x": cell.x + left - x, "y": cell.y + top - y}
            yield AnnotatedCell.cut(seen, cell.class_id, **place)


def _starts(length: int, side: int) -> list[int]:
    """Return where crops of a side begin along a length that they cover."""
    return [min(start, length - side) for start in range(0, max(length, side), side)]


# -- Sizes ----------------------------------------------------------------------------------------


def resized(scene: Scene, factor: float) -> Scene:
    """Multiply the scene's sides by ``factor``, as another camera or magnification does.

    Pixels are averaged if the scene shrinks, and interpolated linearly if it grows. A cell without
    a remaining pixel is left out.
    """
    height, width = (max(1, round(side * factor)) for side in scene.shape)
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    image: Image = np.asarray(cv2.resize(scene.image, (width, height), interpolation=method))
    scales = width / scene.shape[1], height / scene.shape[0]
    return Scene(
        f"{scene.name}, times {factor:g}",
        image,
        tuple(_resized_cells(scene.cells, scales, (height, width))),
        tuple(_resized_cells(scene.slivers, scales, (height, width))),
    )


def _resized_cells(
    cells: Iterable[AnnotatedCell], scales: tuple[float, float], shape: tuple[int, int]
) -> Iterator[AnnotatedCell]:
    """Yield cells on the grid of a resized frame; ``scales`` are for x and y, ``shape`` is (H, W).

    A pixel belongs to a cell if at least half of its place in the old frame is inside the cell.
    """
    scale_x, scale_y = scales
    for cell in cells:
        x0, y0, x1, y1 = cell.box
        left, top = int(x0 * scale_x), int(y0 * scale_y)
        right = min(int(np.ceil(x1 * scale_x)), shape[1])
        bottom = min(int(np.ceil(y1 * scale_y)), shape[0])
        # From a new pixel's centre to its place in the old patch; OpenCV counts pixel centres.
        u = (np.arange(left, right) + 0.5) / scale_x - 0.5 - cell.x
        v = (np.arange(top, bottom) + 0.5) / scale_y - 0.5 - cell.y
        columns, rows = np.meshgrid(u.astype(np.float32), v.astype(np.float32))
        patch = cell.mask.astype(np.float32)
        values = cv2.remap(patch, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
        mask = np.asarray(values) >= 0.5
        if mask.any():
            yield AnnotatedCell.cut(mask, cell.class_id, x=left, y=top)
