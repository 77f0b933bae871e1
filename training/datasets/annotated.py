"""Annotated cells, frames and data sets, which every reader returns and all training uses.

Coordinates are continuous frame pixels: pixel ``i`` spans ``[i, i + 1)``; ``x`` runs along the
width, ``y`` along the height. A cell is stored as a mask patch. So a frame of N cells takes the
memory of N patches, not of N frames, and overlapping cells keep their overlap.

Annotations outline a cell by polygons, or give its mask as run lengths, which count pixels down the
columns of the frame, background first. pycocotools decodes runs into whole frames and trusts the
compressed text, so malformed text makes it read and write outside its buffers. Here the runs are
checked first, and only the cell's own pixels are decoded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask
from skimage.measure import find_contours

from cytoserve.images import read_integers
from cytoserve.patches import Region, run_lengths


class AnnotationError(ValueError):
    """Raised for an unusable annotation; names the file, the entry in it and the reason."""

    def __init__(self, path: Path, entry: str, reason: str) -> None:
        self.path = path
        self.entry = entry
        self.reason = reason
        super().__init__(": ".join(part for part in (str(path), entry, reason) if part))


@dataclass(frozen=True, eq=False)
class AnnotatedCell:
    """One cell: a mask patch at a place in the frame."""

    x: int
    """Frame column of the patch's leftmost pixels."""
    y: int
    """Frame row of the patch's topmost pixels."""
    mask: npt.NDArray[np.bool_]
    """Mask patch ``[h, w]``, tight around the cell: no border row or column is empty."""
    class_id: int
    """Index of the class in :attr:`AnnotatedDataset.class_names`."""

    @classmethod
    def cut(
        cls, mask: npt.NDArray[np.bool_], class_id: int, *, x: int = 0, y: int = 0
    ) -> AnnotatedCell:
        """Make a cell from ``mask`` ``[h, w]`` with its upper left pixel at ``(x, y)``, cropped.

        Raises ValueError if ``mask`` has no pixel set.
        """
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not rows.size:
            raise ValueError("a cell needs at least one pixel; its mask has none")
        tight = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        return cls(x + int(columns[0]), y + int(rows[0]), np.ascontiguousarray(tight), class_id)

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Box ``(x0, y0, x1, y1)`` in frame pixels; the end is exclusive."""
        height, width = self.mask.shape
        return float(self.x), float(self.y), float(self.x + width), float(self.y + height)

    @property
    def area(self) -> int:
        """Number of pixels of the cell."""
        return int(np.count_nonzero(self.mask))

    def polygon(self) -> npt.NDArray[np.float32]:
        """Outer contour of the largest component: float32 ``[P, 2]``, (x, y) in frame pixels.

        The contour runs along the pixel edges with its corners cut, and P >= 4. The first point is
        not repeated at the end.
        """
        contours = find_contours(np.pad(self.mask, 1).astype(np.float32), 0.5, "high")
        largest = max((contour[:-1] for contour in contours), key=_enclosed_area)
        # Contour coordinates count pixel centres of the padded patch.
        polygon: npt.NDArray[np.float64] = largest[:, ::-1] - 0.5 + (self.x, self.y)
        return polygon.astype(np.float32)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AnnotatedCell):
            return NotImplemented
        same_place = (self.x, self.y, self.class_id) == (other.x, other.y, other.class_id)
        return same_place and np.array_equal(self.mask, other.mask)


@dataclass(frozen=True)
class AnnotatedFrame:
    """One image file and its cells. A frame without cells is an ordinary frame."""

    path: Path
    height: int
    width: int
    cells: tuple[AnnotatedCell, ...]
    name: str = ""
    """Name of the frame, unique in a data set; by default the stem of ``path``."""
    scale: float = 1.0
    """Pixels of the data set's common scale per pixel of this frame, see
    `training.datasets.scale`."""

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.path.stem)

    def read(self) -> npt.NDArray[Any]:
        """Read the image as the camera stored it: uint8 or uint16 ``[H, W]`` or ``[H, W, 3]`` RGB.

        Floats are converted to the integers that the server would receive. Raises what
        :func:`cytoserve.images.read_integers` raises.
        """
        return read_integers(self.path)


@dataclass(frozen=True)
class AnnotatedDataset:
    """Frames that share one list of classes.

    Raises AnnotationError if two frames share a name, which is usually the image file's stem.
    """

    class_names: tuple[str, ...]
    frames: tuple[AnnotatedFrame, ...]
    pixel_size_um: float | None = None
    """Side of a pixel of the frames' common scale in micrometres; None if it is unknown."""

    def __post_init__(self) -> None:
        names = Counter(frame.name for frame in self.frames)
        for frame in self.frames:
            if names[frame.name] > 1:
                raise AnnotationError(
                    frame.path,
                    "",
                    f"{names[frame.name]} images are called '{frame.name}'; frames are "
                    "named by their file name without suffix, so rename all but one",
                )

    def subset(self, names: Collection[str]) -> AnnotatedDataset:
        """Return the frames with a :attr:`~AnnotatedFrame.name` in ``names``, in this set's order.

        Raises ValueError for a name that no frame has.
        """
        unknown = sorted(set(names) - {frame.name for frame in self.frames})
        if unknown:
            example = f", such as {self.frames[0].name!r}" if self.frames else ""
            raise ValueError(
                f"no frame is called {', '.join(map(repr, unknown))}; "
                f"give names of the {len(self.frames)} frames here{example}"
            )
        return replace(self, frames=tuple(f for f in self.frames if f.name in names))

    def as_one_class(self, name: str = "cell") -> AnnotatedDataset:
        """Return the same cells, all of a single class ``name``."""
        frames = tuple(
            replace(frame, cells=tuple(replace(cell, class_id=0) for cell in frame.cells))
            for frame in self.frames
        )
        return replace(self, class_names=(name,), frames=frames)

    def cells_per_class(self) -> dict[str, int]:
        """Count the cells of each class, in the order of :attr:`class_names`."""
        counts = Counter(cell.class_id for frame in self.frames for cell in frame.cells)
        return {name: counts[index] for index, name in enumerate(self.class_names)}


def _enclosed_area(contour: npt.NDArray[np.float64]) -> float:
    return float(abs(cv2.contourArea(contour.astype(np.float32))))


OUTSIDE = 0.1
"""Largest distance of a point outside the frame, in sides of the frame. The cell is clipped."""


def cell_from_polygons(
    polygons: Sequence[npt.NDArray[np.float64]], class_id: int, height: int, width: int
) -> AnnotatedCell:
    """Fill ``polygons``, each ``[P, 2]`` (x, y) in frame pixels, into one cell: their union.

    Only the window around them is rasterised, by COCO's own rule. Points must be finite. Raises
    ValueError with the reason if they form no cell in a frame of ``height`` x ``width``.
    """
    points = np.concatenate(polygons)
    size = np.array([width, height])
    if np.any(points < -OUTSIDE * size) or np.any(points > (1 + OUTSIDE) * size):
        raise ValueError(
            f"has points from {_point(points.min(axis=0))} to {_point(points.max(axis=0))}, far "
            f"outside the frame of {width} x {height} pixels; scale the points to this image"
        )
    first = np.clip(np.floor(points.min(axis=0)), 0, size - 1).astype(int)
    end = np.clip(np.ceil(points.max(axis=0)), first + 1, size).astype(int)
    rows, columns = int(end[1] - first[1]), int(end[0] - first[0])
    shifted = [(polygon - first).ravel().tolist() for polygon in polygons]
    runs = coco_mask.merge(coco_mask.frPyObjects(shifted, rows, columns))
    patch = coco_mask.decode(runs).astype(bool)
    if not patch.any():
        raise ValueError("covers no pixel of the frame; remove it or draw it larger")
    return AnnotatedCell.cut(patch, class_id, x=int(first[0]), y=int(first[1]))


def polygon_points(numbers: Sequence[float]) -> npt.NDArray[np.float64]:
    """Convert ``x y x y ...`` to ``[P, 2]``. Raises ValueError for an odd count or P < 3."""
    if len(numbers) % 2:
        raise ValueError(
            f"has a polygon of {len(numbers)} numbers, which is odd; give x and y of every point"
        )
    if len(numbers) < 6:
        raise ValueError(
            f"has a polygon of {len(numbers) // 2} points; an outline needs at least 3"
        )
    return np.asarray(numbers, dtype=np.float64).reshape(-1, 2)


def _point(point: npt.NDArray[np.float64]) -> str:
    return f"({point[0]:g}, {point[1]:g})"


def cell_from_rle(
    counts: str | Sequence[int], class_id: int, height: int, width: int
) -> AnnotatedCell:
    """Decode ``counts``, compressed text or a list, in a frame of ``height`` x ``width``.

    Raises ValueError with the reason if the runs do not fill the frame or contain no pixel.
    """
    runs = _uncompressed(counts) if isinstance(counts, str) else list(counts)
    if any(run < 0 for run in runs) or sum(runs) != height * width:
        raise ValueError(
            f"has runs that cover {sum(runs)} pixels where the frame of {width} x {height} has "
            f"{height * width}; encode the mask at the size of its image"
        )
    edges = np.cumsum([0, *runs])
    starts, lengths = edges[1:-1:2], np.asarray(runs[1::2], dtype=int)
    if not lengths.sum():
        raise ValueError("has a mask without a pixel; remove the annotation")
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    flat = np.repeat(starts, lengths) + within
    columns, rows = np.divmod(flat, height)
    x, y = int(columns.min()), int(rows.min())
    patch = np.zeros((int(rows.max()) - y + 1, int(columns.max()) - x + 1), dtype=bool)
    patch[rows - y, columns - x] = True
    return AnnotatedCell(x, y, patch, class_id)


def rle_from_cell(cell: AnnotatedCell, height: int, width: int) -> dict[str, Any]:
    """Encode ``cell`` as COCO's compressed ``{"size": [height, width], "counts": text}``."""
    rows, columns = cell.mask.shape
    region = Region(slice(cell.y, cell.y + rows), slice(cell.x, cell.x + columns), cell.mask)
    runs = {"size": [height, width], "counts": run_lengths(region, (height, width))}
    compressed = coco_mask.frPyObjects(runs, height, width)
    return {"size": [height, width], "counts": compressed["counts"].decode("ascii")}


def _uncompressed(text: str) -> list[int]:
    """Decode COCO's text: 5 bits per character, and differences from the third run on."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64:
            raise ValueError(f"has the character {character!r} in its RLE; encode the mask again")
        value |= (code & 0x1F) << shift
        shift += 5
        if code & 0x20:  # the number continues
            continue
        if code & 0x10:  # the sign
            value -= 1 << shift
        if len(runs) > 2:
            value += runs[-2]
        runs.append(value)
        value = shift = 0
    if shift:
        raise ValueError("has an RLE that ends within a number; encode the mask again")
    return runs
