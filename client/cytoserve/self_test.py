"""A self-test: a small frame that every pipeline must process, whatever it was trained on."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from cytoserve.cells import Cells
from cytoserve.client import Client
from cytoserve.foreground import Foreground
from cytoserve.prompts import Prompts
from cytoserve.settings import find_pipeline

_SELF_TEST_PROMPTS = Prompts(boxes=[(90, 60, 150, 110), None], points=[None, [(128, 96)]])


def self_test_frame() -> NDArray[np.uint16]:
    """Return a grey uint16 frame ``[192, 256]`` with a dozen bright discs, always the same."""
    random = np.random.default_rng(0)
    frame = np.full((192, 256), 900, np.float32)
    for x, y, radius in zip(
        random.uniform(20, 236, 12),
        random.uniform(20, 172, 12),
        random.uniform(7, 14, 12),
        strict=True,
    ):
        cv2.circle(frame, (round(x), round(y)), round(radius), (2600.0,), cv2.FILLED)
    frame = cv2.GaussianBlur(frame, (0, 0), 1.5) + random.normal(0, 40, frame.shape)
    return np.clip(frame, 0, 65535).astype(np.uint16)


def run_self_test(client: Client, pipeline: str, timeout: float) -> Cells | Foreground:
    """Send the frame to a pipeline; the client checks the answer against the contract.

    The result is not judged: no model was trained on this frame.

    Raises:
        CytoserveError: there is no answer, or it breaks the contract.
    """
    asked = find_pipeline(pipeline)
    if asked.is_semantic:
        return client.foreground(self_test_frame(), pipeline, timeout=timeout)
    if asked.is_prompted:
        return client.prompt(self_test_frame(), _SELF_TEST_PROMPTS, pipeline, timeout=timeout)
    return client.segment(self_test_frame(), pipeline, timeout=timeout)
