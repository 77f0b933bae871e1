"""Rendered phase-contrast frames with exact masks and classes."""

from training.rendered.cells import CrowdedFrameError
from training.rendered.frames import render_dataset, render_frame
from training.rendered.settings import CLASS_NAMES, RenderSettings

__all__ = ["CLASS_NAMES", "CrowdedFrameError", "RenderSettings", "render_dataset", "render_frame"]
