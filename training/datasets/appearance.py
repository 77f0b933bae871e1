"""What the frames of a data set look like, for the recipe. Serving warns of frames unlike them."""

from __future__ import annotations

import numpy as np

from cytoserve.appearance import frame_appearance
from training.checkpoint import LearnedAppearance
from training.datasets.annotated import AnnotatedDataset


def learned_appearance(dataset: AnnotatedDataset) -> LearnedAppearance | None:
    """Measure the frames that have a cell; None if they all have one value.

    Frames without a cell are noise or plain background as often as not, and teach no cells.
    """
    looks = [frame_appearance(frame.read()) for frame in dataset.frames if frame.cells]
    backgrounds = [look.background for look in looks if look.background is not None]
    if not backgrounds:
        return None
    return LearnedAppearance(
        kinds=tuple(sorted({look.kind for look in looks})),
        background=(round(float(np.min(backgrounds)), 3), round(float(np.max(backgrounds)), 3)),
    )
