"""Rendered phase-contrast frames with exact masks and classes."""

from training.rendered.dataset import render_dataset
from training.rendered.frame import render_frame
from training.rendered.scene import CrowdedFrameError
from training.rendered.settings import CLASS_NAMES, RenderSettings

__all__ = ["CLASS_NAMES", "CrowdedFrameError", "RenderSettings", "render_dataset", "render_frame"]
