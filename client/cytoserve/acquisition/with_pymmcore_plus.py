"""Frames of pymmcore-plus: analysed while an MDA runs, or to decide what it acquires next.

::

    handler = MDAHandler(analyzer)
    core.run_mda(sequence, output=["frames.ome.zarr", handler])

    def decide(result):  # one more look at every frame with a cell of the class
        cells = result.cells.of_class("WBC") if result.answered else ()
        return [useq.MDAEvent(x_pos=..., y_pos=...)] if len(cells) else []

    adaptive = AdaptiveEvents(analyzer, grid, decide)
    core.run_mda(adaptive, output=[adaptive])
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cytoserve.acquisition.analyzer import FrameAnalyzer
from cytoserve.acquisition.extras import require
from cytoserve.acquisition.open_events import FRAME_WAIT_S, Decide, OpenEvents
from cytoserve.acquisition.stage import Affine, StageTransform
from cytoserve.acquisition.tickets import Ticket
from cytoserve.errors import InvalidSetting

if TYPE_CHECKING:
    from useq import MDAEvent

EVENT_KEY = "cytoserve_event"
"""Key in the metadata of events from :class:`AdaptiveEvents`: their number."""


@dataclass(frozen=True)
class MDAFrame:
    """Metadata of one frame; ``select`` and the results get it.

    Attributes:
        event: the ``useq.MDAEvent`` of the frame.
        meta: pymmcore-plus' metadata of the frame (``FrameMetaV1``), or an empty mapping.
    """

    event: Any
    meta: Mapping[str, Any]


class MDAHandler:
    """Submits every frame of an MDA to an analyzer.

    Give it to ``run_mda(..., output=[handler])``, or connect its methods to the signals of the
    same names in ``core.mda.events``. Results carry a :class:`MDAFrame` as metadata, and the stage
    if pixel size and stage position are known. The position is that in the frame's metadata, else
    the one that the event asked for.

    Args:
        analyzer: gets the frames. The handler does not close it.
        affine: the camera's ``core.getPixelSizeAffine()``. None takes it from the metadata that
            ``sequenceStarted`` brings, scaled to the pixel size of each frame. If only
            ``frameReady`` is connected, pass it, or the camera is taken to be aligned.
        sensor_shape: ``(H, W)`` of the whole sensor in pixels, for cameras with a region of
            interest. Without it, their frames have no stage.
    """

    def __init__(
        self,
        analyzer: FrameAnalyzer,
        *,
        affine: Affine | None = None,
        sensor_shape: tuple[int, int] | None = None,
    ) -> None:
        require("pymmcore_plus", "pymmcore-plus")
        self._analyzer = analyzer
        self._affine = affine
        self._sensor_shape = sensor_shape
        self._cameras: dict[str | None, Mapping[str, Any]] = {}

    def sequenceStarted(self, sequence: Any, meta: Mapping[str, Any] | None = None) -> None:
        """Take the cameras' affines from the metadata of an acquisition."""
        infos = (meta or {}).get("image_infos", ())
        self._cameras = {info.get("camera_label"): info for info in infos}

    def frameReady(
        self,
        img: NDArray[np.generic],
        event: MDAEvent | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        """Submit a frame. It returns at once unless the analyzer's ``when_busy`` is ``wait``."""
        self._submit(img, event, meta or {})

    def _submit(self, img: NDArray[np.generic], event: Any, meta: Mapping[str, Any]) -> Ticket:
        return self._analyzer.submit(
            img, MDAFrame(event, meta), stage=self._stage(img, event, meta)
        )

    def _stage(
        self, img: NDArray[np.generic], event: Any, meta: Mapping[str, Any]
    ) -> StageTransform | None:
        """Return where a frame lies, or None if the metadata does not tell."""
        place = meta.get("position", {})
        x = place.get("x", getattr(event, "x_pos", None))
        y = place.get("y", getattr(event, "y_pos", None))
        camera = self._cameras.get(meta.get("camera_device"), {})
        roi = camera.get("roi")
        if x is None or y is None or (roi is not None and self._sensor_shape is None):
            return None
        middle_px = None
        if roi is not None and self._sensor_shape is not None:
            height, width = self._sensor_shape
            middle_px = (width / 2 - roi[0], height / 2 - roi[1])
        pixel_size_um = meta.get("pixel_size_um") or None  # 0 where it is not calibrated
        affine = self._affine or _scaled(camera, pixel_size_um)
        try:
            shape = img.shape[0], img.shape[1]
            return StageTransform(shape, (x, y), pixel_size_um, affine, middle_px)
        except (LookupError, InvalidSetting, TypeError, ValueError, AttributeError):
            return None  # unusable numbers of a driver


class AdaptiveEvents(MDAHandler, Iterator["MDAEvent"]):
    """An iterator of events that grows by what is found in their frames, and ends by itself.

    Pass it to ``run_mda`` twice: as the events, and as an output. It ends when every event that
    was handed out is decided upon and no new one came; or after :meth:`stop`. While it waits for a
    result, ``core.mda.cancel()`` takes effect at the deadline of the frame at the latest.

    Frames that are dropped are never looked at: make the analyzer with ``when_busy="wait"`` and
    some ``queue_size`` if every frame counts. Use cameras with one channel.

    Args:
        analyzer: gets the frames. It is not closed.
        events: the first events, such as a ``useq.MDASequence``.
        decide: function from a :class:`cytoserve.acquisition.FrameResult` to the events that
            follow, or None. It is called for every frame, also for those that were not answered,
            between two events in the thread of the acquisition: keep it short.
        frame_wait_s: seconds after which an event whose frame does not come is given up.
        affine: see :class:`MDAHandler`.
        sensor_shape: see :class:`MDAHandler`.
    """

    def __init__(
        self,
        analyzer: FrameAnalyzer,
        events: Iterable[MDAEvent],
        decide: Decide,
        *,
        frame_wait_s: float = FRAME_WAIT_S,
        affine: Affine | None = None,
        sensor_shape: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(analyzer, affine=affine, sensor_shape=sensor_shape)
        self._first = iter(events)
        self._more: deque[MDAEvent] = deque()
        self._open = OpenEvents(decide, frame_wait_s)
        self._numbers = itertools.count()
        self._stopped = False

    def stop(self) -> None:
        """Hand out no more events."""
        self._stopped = True

    def __next__(self) -> MDAEvent:
        self._open.executed()  # the runner asks for the next event after it executed the last
        while True:
            self._more.extend(self._open.decide_known())
            if self._stopped:
                raise StopIteration
            event = next(self._first, None) or (self._more.popleft() if self._more else None)
            if event is not None:
                return self._numbered(event)
            if not self._open.wait():
                raise StopIteration

    def frameReady(  # noqa: D102
        self,
        img: NDArray[np.generic],
        event: MDAEvent | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        ticket = self._submit(img, event, meta or {})
        self._open.add(getattr(event, "metadata", {}).get(EVENT_KEY), ticket)

    def _numbered(self, event: MDAEvent) -> MDAEvent:
        number = next(self._numbers)
        if event.action.type == "acquire_image":  # others bring no frame
            self._open.expect(number)
        return event.model_copy(update={"metadata": {**event.metadata, EVENT_KEY: number}})


def _scaled(camera: Mapping[str, Any], pixel_size_um: float | None) -> Affine | None:
    """Return a camera's affine for a pixel size: an objective may have changed since the start."""
    affine: Affine | None = camera.get("pixel_size_affine")
    at_start = camera.get("pixel_size_um")
    if affine is None or not at_start or not pixel_size_um:
        return affine
    a, b, c, d, e, f = (number * pixel_size_um / at_start for number in affine)
    return a, b, c, d, e, f
