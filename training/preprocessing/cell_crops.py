"""Rectangles cut around cells, on which the classifier is trained and served."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from cytoserve.contract import CROP_SIZE
from training.preprocessing.normalise import as_rgb, to_8_bit

SAMPLES_PER_BIN = 2
"""RoiAlign averages this many samples per side of a crop pixel (He et al. 2017, section 3)."""


class CellCrops(nn.Module):
    """Cut one square crop per box by RoiAlign; exported as the step `cell_crops`.

    A box of any aspect ratio is stretched to the square, as in the study. The crop is normalised
    with the levels of its frame, so a dim cell in a bright field stays dim.
    """

    def forward(self, image: Tensor, levels: Tensor, boxes: Tensor) -> Tensor:
        """Cut crops from ``image`` ``[H, W, C]`` (C = 1 or 3, integer camera values).

        Args:
            image: the frame.
            levels: float32 ``[2]``, see `PercentileLevels`.
            boxes: float32 ``[N, 4]``, (x0, y0, x1, y1) in continuous frame pixels.

        Returns:
            uint8 ``[max(N, 1), 3, S, S]``, RGB. Without any box there is one meaningless crop,
            since a network step with a batch dimension rejects zero rows. The caller removes it.
        """
        count = torch.clamp(torch._shape_as_tensor(boxes)[0], min=1)
        boxes = torch.cat([boxes, boxes.new_zeros((1, 4))])[:count]
        frame = image.float().permute(2, 0, 1).unsqueeze(0)
        rois = torch.cat([torch.zeros_like(boxes[:, :1]), boxes], dim=1)
        crops = roi_align(
            frame, rois, (CROP_SIZE, CROP_SIZE), sampling_ratio=SAMPLES_PER_BIN, aligned=True
        )
        return as_rgb(to_8_bit(crops, levels), channel_dim=1)
