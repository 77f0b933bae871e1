"""Frames of python-microscope's cameras.

::

    client = CameraClient(analyzer, pixel_size_um=0.65, position=lambda: stage.position)
    camera.set_client(client)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cytoserve.acquisition.analyzer import FrameAnalyzer
from cytoserve.acquisition.extras import require
from cytoserve.acquisition.stage import Affine, StageTransform
from cytoserve.errors import InvalidSetting


@dataclass(frozen=True)
class CameraFrame:
    """Metadata of one frame; ``select`` and the results get it.

    Attributes:
        timestamp: of the camera, if it told one; else seconds of ``time.time()`` at arrival.
        position: coordinates of the stage's axes at arrival, if they could be read.
    """

    timestamp: Any
    position: Mapping[str, float] | None


class CameraClient:
    """Stands where a camera expects its client's queue, and submits every frame to an analyzer.

    A camera that reports an error in place of a frame gives a frame that failed.

    Args:
        analyzer: gets the frames. The client does not close it.
        pixel_size_um: side of a frame pixel on the sample, in micrometres.
        affine: the camera's affine, if it is rotated or mirrored; see
            :mod:`cytoserve.acquisition.stage`. That of the simulated ``StageAwareCamera``, which
            turns its frames by 180 degrees, is ``(-p, 0, 0, 0, -p, 0)``.
        position: function that returns the stage's position by axis, such as
            ``{"x": 10.0, "y": 20.0}`` in micrometres. It is called in the camera's thread when the
            frame arrives, so the stage must stand still until then, and answer quickly. None: the
            results have no stage.
    """

    def __init__(
        self,
        analyzer: FrameAnalyzer,
        *,
        pixel_size_um: float | None = None,
        affine: Affine | None = None,
        position: Callable[[], Mapping[str, float]] | None = None,
    ) -> None:
        require("microscope", "python-microscope")
        self._analyzer = analyzer
        self._pixel_size_um = pixel_size_um
        self._affine = affine
        self._position = position

    def put(self, data: Any) -> None:
        """Submit a frame; cameras call it."""
        self.receiveData(data, time.time())

    def receiveData(self, data: Any, timestamp: Any) -> None:
        """Submit a frame with its time; cameras call it."""
        position = self._read_position()
        self._analyzer.submit(
            data, CameraFrame(timestamp, position), stage=self._stage(data, position)
        )

    def _read_position(self) -> Mapping[str, float] | None:
        try:
            return None if self._position is None else dict(self._position())
        except Exception:  # of a stage's driver: the frame is worth more than its position
            return None

    def _stage(self, data: Any, position: Mapping[str, float] | None) -> StageTransform | None:
        """Return where a frame lies, or None if that is not known."""
        try:
            xy = (position["x"], position["y"])  # type: ignore[index]
            return StageTransform(data.shape[:2], xy, self._pixel_size_um, self._affine)
        except (LookupError, InvalidSetting, TypeError, ValueError, AttributeError):
            return None
