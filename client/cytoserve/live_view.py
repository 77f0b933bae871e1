"""A look at what is found while it is found: layers of a napari viewer.

::

    viewer = napari.Viewer()
    view = LiveView(viewer)
    analyzer = FrameAnalyzer(url, "yolo", callback=view.put_result, keep_frames=True)
    view.start()  # and start the acquisition in a thread
    napari.run()

napari draws in the thread of its window only. So other threads hand over the newest frame, and the
window takes it at most so many times per second.
"""

from __future__ import annotations

import threading
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cytoserve.cells import Cells
from cytoserve.errors import InvalidSetting
from cytoserve.foreground import Foreground

MAX_UPDATES_PER_S = 5.0
"""Default of the most updates per second."""

FRAME_LAYER, FOUND_LAYER = "frame", "found"
"""Names of the layers."""


class Viewer(Protocol):
    """What is needed of ``napari.Viewer`` or ``napari.components.ViewerModel``."""

    layers: Any

    def add_image(self, data: NDArray[Any], *, name: str, rgb: bool) -> Any:
        """Add a layer that shows a frame."""
        ...

    def add_labels(self, data: NDArray[Any], *, name: str) -> Any:
        """Add a layer that shows a label image."""
        ...


class LiveView:
    """Shows the newest frame and what was found in it; frames in between are left out.

    Args:
        viewer: a napari viewer.
        max_updates_per_s: most updates per second.

    Raises:
        InvalidSetting: ``max_updates_per_s`` is not a number above 0 and up to 100.
    """

    def __init__(self, viewer: Viewer, max_updates_per_s: float = MAX_UPDATES_PER_S) -> None:
        if not 0 < max_updates_per_s <= 100:
            raise InvalidSetting(
                "A live view has up to 100 updates per second; given: "
                f"{max_updates_per_s!r}. The default is {MAX_UPDATES_PER_S:g}."
            )
        self.pause_s = 1 / max_updates_per_s
        self._viewer = viewer
        self._lock = threading.Lock()
        self._newest: tuple[NDArray[Any], Cells | Foreground] | None = None
        self._timer: Any = None

    def put(self, frame: NDArray[np.generic], found: Cells | Foreground) -> None:
        """Hand over a frame and what was found in it, from any thread; returns at once.

        Args:
            frame: ``[H, W]``, ``[H, W, 1]`` or ``[H, W, 3]`` (RGB). It is not copied: do not write
                to it any more.
            found: the answer for this frame.
        """
        with self._lock:
            self._newest = frame, found

    def put_result(self, result: Any) -> None:
        """Hand over a result of an analyzer that keeps frames; unanswered ones are not shown."""
        found = result.cells if result.cells is not None else result.foreground
        if found is not None and result.frame is not None:
            self.put(result.frame, found)

    def refresh(self) -> bool:
        """Show what was handed over last. Call it in the thread of the window.

        Returns:
            whether there was anything new.
        """
        with self._lock:
            newest, self._newest = self._newest, None
        if newest is None:
            return False
        frame, found = newest
        labels = found.label_image()
        # A layer cannot change between grey and RGB, nor follow a frame of another size.
        if frame.ndim == 3 and frame.shape[2] == 1:
            frame = frame[..., 0]
        if FRAME_LAYER in self._viewer.layers:
            shown = self._viewer.layers[FRAME_LAYER].data
            if shown.shape == frame.shape:
                self._viewer.layers[FRAME_LAYER].data = frame
                self._viewer.layers[FOUND_LAYER].data = labels
                return True
            del self._viewer.layers[FOUND_LAYER], self._viewer.layers[FRAME_LAYER]
        self._viewer.add_image(frame, name=FRAME_LAYER, rgb=frame.ndim == 3)
        self._viewer.add_labels(labels, name=FOUND_LAYER)
        return True

    def start(self) -> None:
        """Refresh by a timer of the window's own event loop, from now on."""
        from qtpy.QtCore import QTimer  # comes with napari

        self._timer = QTimer()
        self._timer.timeout.connect(self.refresh)
        self._timer.start(round(1000 * self.pause_s))
