"""One pipeline with its settings, checked before the first frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cytoserve.cells import Cells
from cytoserve.errors import InvalidSetting
from cytoserve.foreground import Foreground
from cytoserve.frame_parts import frame_limits
from cytoserve.frames import check_frame
from cytoserve.settings import (
    ForegroundSettings,
    Settings,
    check_version,
    find_instance_pipeline,
    find_pipeline,
)

SettingValue = float | str | None
"""Value of a keyword argument of ``Client.segment`` or ``Client.foreground``."""


class BlockingClient(Protocol):
    """What an analyzer needs of a client."""

    def segment(self, image: NDArray[np.generic], pipeline: str, **settings: Any) -> Cells:
        """Find the cells in one frame; see :meth:`cytoserve.Client.segment`."""
        ...

    def foreground(self, image: NDArray[np.generic], pipeline: str, **settings: Any) -> Foreground:
        """Find the foreground of one frame; see :meth:`cytoserve.Client.foreground`."""
        ...


class PipelineCall:
    """Calls one pipeline with the same settings for every frame.

    Args:
        client: sends the frames.
        pipeline: an instance or a semantic pipeline of ``contract.PIPELINES``.
        settings: keyword arguments of ``Client.segment`` or ``Client.foreground``.

    Raises:
        InvalidSetting: the pipeline needs prompts or does not exist, or a setting is invalid.
    """

    def __init__(
        self, client: BlockingClient, pipeline: str, settings: Mapping[str, SettingValue]
    ) -> None:
        found = find_pipeline(pipeline)
        if not found.is_semantic:
            find_instance_pipeline(pipeline)  # refuses prompted ones, and names the others
        self._client = client
        self._pipeline = pipeline
        self._settings = dict(settings)
        self._is_semantic = found.is_semantic
        self._limits = frame_limits(found)
        kind = ForegroundSettings if found.is_semantic else Settings
        own = {field.name for field in fields(kind)}
        known = own | {"version"} | (set() if found.is_semantic else {"labels"})
        if unknown := sorted(set(settings) - known):
            raise InvalidSetting(
                f"The settings of {pipeline} are: {', '.join(sorted(known))}; given: "
                f"{', '.join(unknown)}. Leave it out, or choose one of them."
            )
        checked: Any = kind(**{name: settings[name] for name in own & set(settings)})  # type: ignore[arg-type]
        if isinstance(checked, ForegroundSettings):
            checked.check_for(found)
        if settings.get("version") is not None:
            check_version(settings["version"])  # type: ignore[arg-type]

    def check(self, frame: NDArray[np.generic]) -> None:
        """Check a frame without touching a pixel.

        Raises:
            UnsupportedImage, FrameTooLarge: the pipeline does not take this frame.
        """
        check_frame(frame, self._limits)

    def __call__(self, frame: NDArray[np.generic], timeout_s: float) -> Cells | Foreground:
        """Send one frame and wait for the answer, at most ``timeout_s`` seconds."""
        call = self._client.foreground if self._is_semantic else self._client.segment
        return call(frame, self._pipeline, timeout=timeout_s, **self._settings)
