"""The step `sam_encoder`: SAM's image encoder."""

from __future__ import annotations

import copy

import torch
from segment_anything.modeling import Sam
from torch import Tensor, nn

from export.sam.geometry import sides_left_open


class ImageEncoder(nn.Module):
    """`Sam.preprocess` and the vision transformer, for a whole frame and without prompts.

    Args:
        sam: a SAM of any size.
        half: compute in float16, which halves the file and, on a GPU, the time; the dtypes of input
            and output stay.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, sam: Sam, half: bool = False) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(sam.image_encoder).eval()
        self.register_buffer("mean", sam.pixel_mean.clone())
        self.register_buffer("deviation", sam.pixel_std.clone())
        self.half_precision = half
        if half:
            self.encoder.half()

    def forward(self, sam_image: Tensor) -> Tensor:
        """Embedding float32 ``[B, E, G, G]`` of images uint8 ``[B, 4, S, S]``.

        The images are those of `export.sam.prepare.SamPrepare`; an image with another side is
        refused.
        """
        side = self.encoder.img_size
        # The tokens' positions are learned for one side. It is fixed here, so that a graph that
        # gets another side fails instead of giving a wrong answer.
        shape = torch._shape_as_tensor(sam_image)
        images = sam_image.reshape([shape[0], 4, side, side])  # type: ignore[list-item]  # traced
        shown = (images[:, 3:] > 0).float()
        pixels = (images[:, :3].float() - self.mean) / self.deviation * shown
        if self.half_precision:
            pixels = pixels.half()
        embedding: Tensor = self.encoder(pixels)
        return sides_left_open(embedding.float(), shape[2] // side, first=1)
