"""A napari window beside a watch: it shows the newest image, and closing it ends the watch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Protocol

import click

from cytoserve.live_view import LiveView

_CHECK_MS = 100
"""Milliseconds between two looks whether the watch has ended."""


class Asked(Protocol):
    """What ends a watch, see :class:`cytoserve.cli.watch.Ending`."""

    is_asked: bool


class ViewerWindow:
    """The window: its event loop has the main thread, and the watch a thread of its own."""

    def __init__(self, viewer: Any, ending: Asked) -> None:
        self._viewer = viewer
        self._ending = ending
        self._view = LiveView(viewer)
        self.put = self._view.put

    def run_beside(self, watch: Callable[[], None]) -> None:
        """Run a watch until it ends or the window is closed; raise what the watch raises."""
        import napari
        from qtpy.QtCore import QTimer  # comes with napari

        errors: list[BaseException] = []

        def work() -> None:
            try:
                watch()
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=work, name="cytoserve-watch")
        thread.start()
        self._view.start()
        timer = QTimer()  # also lets Python see Ctrl-C
        timer.timeout.connect(lambda: None if thread.is_alive() else self._viewer.close())
        timer.start(_CHECK_MS)
        napari.run()
        self._ending.is_asked = True
        thread.join()
        if errors:
            raise errors[0]


@contextmanager
def viewer_window(ending: Asked) -> Iterator[ViewerWindow]:
    """Open the window, and close it in any case.

    Raises:
        click.UsageError: napari is not installed, or there is no screen for its window.
    """
    if find_spec("napari") is None:
        raise click.UsageError(
            "--show opens a window of napari; given: an environment without it. Install it with "
            "`pip install '.[napari]'`, or leave --show out."
        )
    import napari

    try:
        viewer = napari.Viewer(title="cytoserve")
    except (ImportError, RuntimeError) as error:
        raise click.UsageError(
            f"--show needs a screen and Qt; given: {error}. Leave --show out, or look at the "
            "overlays: --save overlay."
        ) from error
    try:
        yield ViewerWindow(viewer, ending)
    finally:
        viewer.close()
