"""The study's way of running SAM: segment-anything's `SamPredictor`, one prompt after another.

What the served pipelines are proven equal to, and what they are timed against.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from segment_anything import SamPredictor
from segment_anything.modeling import Sam

from export.reference import normalised_rgb
from training.sam_prompts import paste_coarse_masks


@dataclass(frozen=True)
class Prompt:
    """One prompt, as a person gives it."""

    box: npt.NDArray[np.float32] | None = None
    """``[4]``, (x0, y0, x1, y1) in frame pixels."""
    points: npt.NDArray[np.float32] | None = None
    """``[P, 2]``, (x, y) in frame pixels."""
    point_labels: npt.NDArray[np.int32] | None = None
    """``[P]``: 1 foreground, 0 background."""
    coarse_mask: npt.NDArray[np.uint8] | None = None
    """``[M, M]``, the probability 0..255 inside ``coarse_box``."""
    coarse_box: npt.NDArray[np.float32] | None = None
    """``[4]``, (x0, y0, x1, y1) in frame pixels."""


@dataclass(frozen=True)
class Candidates:
    """The three masks that SAM answers a prompt with."""

    logits: npt.NDArray[np.float32]
    """``[3, H, W]``; a mask is where they are above 0."""
    qualities: npt.NDArray[np.float32]
    """``[3]``, the IoU that SAM predicts."""


class PredictorSam:
    """segment-anything's own prediction with a SAM of ours, frame by frame."""

    def __init__(self, sam: Sam) -> None:
        self.predictor = SamPredictor(sam)

    def set_frame(self, image: npt.NDArray[np.generic]) -> None:
        """Encode a camera frame ``[H, W]`` or ``[H, W, C]``, which later prompts are for."""
        self.predictor.set_image(normalised_rgb(image))

    def candidates(self, prompt: Prompt) -> Candidates:
        """All masks for one prompt on the frame that was set."""
        mask_input = None
        if prompt.coarse_mask is not None and prompt.coarse_box is not None:
            mask_input = self._mask_input(prompt.coarse_mask, prompt.coarse_box)
        logits, qualities, _ = self.predictor.predict(
            point_coords=prompt.points,
            point_labels=prompt.point_labels,
            box=prompt.box,
            mask_input=mask_input,
            multimask_output=True,
            return_logits=True,
        )
        return Candidates(logits, qualities)

    def _mask_input(
        self, mask: npt.NDArray[np.uint8], box: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        """A coarse mask as logits ``[1, G, G]`` on the grid of SAM's low-resolution masks."""
        side = self.predictor.model.prompt_encoder.mask_input_size[0]
        on_square = self.predictor.transform.apply_boxes(box, self.predictor.original_size)
        on_grid = on_square * (side / self.predictor.model.image_encoder.img_size)
        logits: npt.NDArray[np.float32] = paste_coarse_masks(
            torch.from_numpy(mask)[None], torch.from_numpy(on_grid), side
        )[0].numpy()
        return logits
