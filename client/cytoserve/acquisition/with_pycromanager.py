"""Frames of pycro-manager: analysed while an acquisition runs, or to decide what it acquires next.

::

    handler = PycroManagerHandler(analyzer)
    with Acquisition(..., image_process_fn=handler.image_process_fn) as acquisition:
        acquisition.acquire(events)

    handler = PycroManagerHandler(analyzer, decide=decide)
    with Acquisition(..., image_saved_fn=handler.image_saved_fn) as acquisition:
        handler.run(acquisition, events)
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoserve.acquisition.analyzer import FrameAnalyzer
from cytoserve.acquisition.extras import require
from cytoserve.acquisition.open_events import FRAME_WAIT_S, Decide, OpenEvents
from cytoserve.acquisition.stage import Affine, StageTransform
from cytoserve.errors import InvalidSetting


class PycroManagerHandler:
    """Submits every frame of an ``Acquisition`` to an analyzer.

    Use one of :meth:`image_process_fn` and :meth:`image_saved_fn`. Results carry pycro-manager's
    metadata of the frame, whose ``Axes`` tell which it is, and the stage if the metadata has a
    pixel size and the intended position of the XY stage.

    Args:
        analyzer: gets the frames. The handler does not close it.
        decide: function from a :class:`cytoserve.acquisition.FrameResult` to the events (dicts)
            that follow, or None; for :meth:`run`. It is called for every frame, also for those
            that were not answered.
        affine: the camera's ``core.get_pixel_size_affine()``; pycro-manager's metadata has none.
            None: the camera is aligned with the stage.
        frame_wait_s: seconds after which an event whose frame does not come is given up.
    """

    def __init__(
        self,
        analyzer: FrameAnalyzer,
        *,
        decide: Decide = lambda result: None,
        affine: Affine | None = None,
        frame_wait_s: float = FRAME_WAIT_S,
    ) -> None:
        require("pycromanager", "pycromanager")
        self._analyzer = analyzer
        self._affine = affine
        self._open = OpenEvents(decide, frame_wait_s)

    def image_process_fn(
        self, image: NDArray[np.generic], metadata: dict[str, Any]
    ) -> tuple[NDArray[np.generic], dict[str, Any]]:
        """Submit a frame before it is saved, and pass it on unchanged."""
        self._submit(image, metadata)
        return image, metadata

    def image_saved_fn(self, axes: Mapping[str, Any], dataset: Any, event_queue: Any) -> None:
        """Submit a frame after it was saved, which reads it again; saving comes first."""
        self._submit(dataset.read_image(**axes), dataset.read_metadata(**axes), axes)

    def run(self, acquisition: Any, events: Iterable[dict[str, Any]]) -> None:
        """Acquire events and all that ``decide`` asks for, and return when nothing is open.

        Call it inside the acquisition's ``with`` block. It returns too if the acquisition is
        aborted, after ``frame_wait_s`` seconds.
        """
        new = list(events)
        while new or self._open.wait():
            if new:
                for event in new:
                    self._open.expect(_key(event["axes"]))
                acquisition.acquire(new)
            new = self._open.decide_known()

    def _submit(
        self,
        image: NDArray[np.generic],
        metadata: Mapping[str, Any],
        axes: Mapping[str, Any] | None = None,
    ) -> None:
        ticket = self._analyzer.submit(image, metadata, stage=self._stage(image, metadata))
        self._open.add(_key(metadata.get("Axes", {}) if axes is None else axes), ticket)

    def _stage(
        self, image: NDArray[np.generic], metadata: Mapping[str, Any]
    ) -> StageTransform | None:
        """Return where a frame lies, or None if the metadata does not tell."""
        try:
            position = metadata["XPosition_um_Intended"], metadata["YPosition_um_Intended"]
            pixel_size_um = metadata.get("PixelSize_um", metadata.get("PixelSizeUm"))
            shape = image.shape[0], image.shape[1]
            return StageTransform(shape, position, pixel_size_um or None, self._affine)
        except (LookupError, InvalidSetting, TypeError, ValueError, AttributeError):
            return None


def _key(axes: Mapping[str, Any]) -> Hashable:
    return frozenset(axes.items())
