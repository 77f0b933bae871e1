"""The cells that a pipeline found in one frame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cytoserve.exports import Exports
from cytoserve.measurements import MEASUREMENTS, measure
from cytoserve.patches import LabelImage, Region, outlines, owned_regions, paint_labels

if TYPE_CHECKING:
    from cytoserve.acquisition.stage import CellsOnStage, StageTransform


@dataclass(frozen=True)
class Doubt:
    """One reason to doubt an answer; :mod:`cytoserve.doubts` finds them.

    Attributes:
        kind: one of :data:`cytoserve.doubts.KINDS`, to count doubts of many frames by.
        seen: what was seen in the answer, a sentence.
        remedy: what to do, in words of :meth:`cytoserve.Client.segment`.
        command_remedy: what to do, in words of ``cytoserve segment``.
    """

    kind: str
    seen: str
    remedy: str
    command_remedy: str


@dataclass(frozen=True, eq=False)
class Cells(Exports):
    """N cells, best score first, or in the order of their prompts; every array is read-only.

    Coordinates are continuous frame pixels: pixel ``i`` spans ``[i, i + 1)``.

    A cell is one connected piece, or nothing if its patch is empty. Every pixel belongs to at most
    one cell: see :mod:`cytoserve.patches` for the rule. Label image, regions, masks, polygons and
    table all describe these pixels. ``boxes`` and ``patches`` are as the network found them,
    overlaps included.

    Attributes:
        boxes: float32 ``[N, 4]``, (x0, y0, x1, y1).
        scores: float32 ``[N]``, 0..1, descending. For prompted cells, the quality that SAM
            predicts for its mask, about 0..1, in the order of the prompts.
        class_ids: int32 ``[N]``, index into ``class_names``.
        class_probs: float32 ``[N, K]``, 0..1, one column per class.
        patches: uint8 ``[N, M, M]``, probability 0..255 inside the box; see
            :mod:`cytoserve.patches` for how a patch lies on the frame.
        frame_shape: ``(H, W)`` of the frame in pixels.
        class_names: the K classes.
        found: number of cells before ``max_cells`` limited the answer.
        labels: the label image that the server painted, if requested.
        scale: the factor that scaled the frame to match the training frames.
        score_threshold: the threshold that was used; None for prompted cells.
        doubts: reasons to doubt the answer of an instance pipeline; a choice of its cells keeps
            them.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    class_ids: NDArray[np.int32]
    class_probs: NDArray[np.float32]
    patches: NDArray[np.uint8]
    frame_shape: tuple[int, int]
    class_names: tuple[str, ...]
    found: int
    labels: LabelImage | None = None
    scale: float = 1.0
    score_threshold: float | None = None
    doubts: tuple[Doubt, ...] = ()

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                view = value.view()
                view.flags.writeable = False
                object.__setattr__(self, field.name, view)

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Cells]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int | slice | NDArray[Any]) -> Cells:
        """Return the chosen cells, such as ``cells[0]``, ``cells[:10]``, ``cells[scores > 0.5]``.

        They are numbered again from 1 and painted again: a cell that is left out claims no pixel,
        so its neighbours may be larger here than in the whole answer.
        """
        kept = np.atleast_1d(np.arange(len(self))[index])
        return replace(
            self,
            boxes=self.boxes[kept],
            scores=self.scores[kept],
            class_ids=self.class_ids[kept],
            class_probs=self.class_probs[kept],
            patches=self.patches[kept],
            found=self.found - len(self) + len(kept),
            labels=None,
        )

    def __repr__(self) -> str:
        counts = ", ".join(f"{name}: {number}" for name, number in self.counts().items())
        height, width = self.frame_shape
        capped = f", capped (found {self.found})" if self.capped else ""
        doubts = f", warnings: {len(self.doubts)}" if self.doubts else ""
        return f"<Cells {len(self)} in {height} x {width} px ({counts}){capped}{doubts}>"

    @property
    def capped(self) -> bool:
        """Whether ``max_cells`` limited the answer: more cells were found than are here."""
        return self.found > len(self)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Signs that model or settings do not suit the frame, in sentences that say what to do.

        There is none in the ordinary case, which an answer without a cell is, too.
        """
        return tuple(f"{doubt.seen} {doubt.remedy}" for doubt in self.doubts)

    def counts(self) -> dict[str, int]:
        """Return the number of cells per class."""
        numbers = np.bincount(self.class_ids, minlength=len(self.class_names))
        return dict(zip(self.class_names, numbers.tolist(), strict=True))

    def of_class(self, name: str) -> Cells:
        """Return the cells of one class.

        Raises:
            ValueError: there is no such class.
        """
        return self[self.class_ids == self.class_names.index(name)]

    def label_image(self) -> LabelImage:
        """Return ``[H, W]``: 0 background, ``i`` the i-th cell from 1 on; read-only.

        This is the image that the server painted, if requested. Otherwise it is painted here, once,
        by the same rule. Where cells overlap, the earlier one keeps the pixel: the cell with the
        better score, or of the earlier prompt. The dtype is uint16, or uint32 if N > 65535.
        """
        return self._label_image

    @cached_property
    def _label_image(self) -> LabelImage:
        if self.labels is not None:
            return self.labels
        painted = paint_labels(self.boxes, self.patches, self.frame_shape)
        painted.flags.writeable = False
        return painted

    def regions(self) -> Iterator[Region]:
        """Yield the bounding box of every cell in the label image, with its mask."""
        return owned_regions(self.boxes, self.label_image())

    def masks(self) -> Iterator[NDArray[np.bool_]]:
        """Yield a bool ``[H, W]`` for every cell, one at a time: its pixels in the label image.

        All masks at once would need O(N·H·W); :meth:`regions` is the compact form.
        """
        for region in self.regions():
            mask = np.zeros(self.frame_shape, np.bool_)
            mask[region.rows, region.columns] = region.mask
            yield mask

    def polygons(self) -> list[NDArray[np.float32]]:
        """Return the outline of every cell: float32 ``[P, 2]``, (x, y), frame pixels.

        It is the outer outline of the cell in the label image, with subpixel precision, without
        holes, closed from the last point to the first. It is ``[0, 2]`` if a cell owns no pixel:
        its patch is empty, or other cells fill the frame.
        """
        return list(outlines(self.boxes, self.patches, self.label_image()))

    def table(self) -> dict[str, NDArray[Any]]:
        """Return one column per key, N rows each; ``pandas.DataFrame(cells.table())`` accepts it.

        ``label`` is the number in the label image. ``class``, ``score`` and one
        ``probability-<class>`` per class follow, then
        :data:`cytoserve.measurements.MEASUREMENTS` of the cell in the label image.
        """
        measured = np.array([measure(region) for region in self.regions()], np.float64)
        columns = measured.reshape(len(self), len(MEASUREMENTS)).T
        names = np.array(self.class_names, dtype=np.str_)
        return {
            "label": np.arange(1, len(self) + 1),
            "class": names[self.class_ids],
            "score": self.scores,
            **{
                f"probability-{name}": self.class_probs[:, index]
                for index, name in enumerate(self.class_names)
            },
            **dict(zip(MEASUREMENTS, columns, strict=True)),
        }

    def to_stage_um(self, stage: StageTransform) -> CellsOnStage:
        """Return where the cells lie on the microscope's stage, in micrometres.

        Args:
            stage: of the frame in which the cells were found. Its own methods convert any points
                and boxes, and back; see :mod:`cytoserve.acquisition.stage`.

        Raises:
            InvalidSetting: the stage is that of a frame of another size.
        """
        from cytoserve.acquisition.stage import cells_on_stage  # few callers have a stage

        return cells_on_stage(self, stage)
