"""The trained U-Nets as they are served: bytes in, probabilities in bytes out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from export.graphs.resize import resize
from export.unet.attention import chunk_attention_queries
from export.unet.tiles import EDGE
from training.unet.network import UNet

TILE_CHUNK = 4
"""Number of tiles that the nuclei network takes at once.

They take about 0.5 GB of activations in a plain U-Net."""


class WholeFrameNetwork(nn.Module):
    """A U-Net on whole frames, at their own resolution or at the one that it was trained on.

    Args:
        unet: the trained network.
        resize_to: (width, height) in pixels that every frame is resized to, and its probability
            back from, see `export.graphs.resize.resize`; None uses frames as they are.
    """

    def __init__(self, unet: UNet, resize_to: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.unet = chunk_attention_queries(unet)
        self.resize_to = resize_to

    def forward(self, frame_rgb: Tensor) -> Tensor:
        """Probability uint8 ``[B, H, W]``, 0..255 for 0..1, of frames uint8 ``[B, 3, H, W]``."""
        if self.resize_to is None:
            return _to_bytes(torch.sigmoid(self.unet(frame_rgb)))
        width, height = (torch.tensor(side) for side in self.resize_to)
        # Not rounded to grey levels again: a U-Net takes float32 frames just as well.
        trained = resize(frame_rgb.float(), height, width)
        shape = torch._shape_as_tensor(frame_rgb)
        return _to_bytes(resize(torch.sigmoid(self.unet(trained)), shape[2], shape[3]))


class TileNetwork(nn.Module):
    """A U-Net on tiles without their edges, which stitching does not use.

    On tiles of 256 pixels, leaving them out saves a plain U-Net a quarter of its multiplications
    and U-Net_ResNet50 a tenth.
    """

    def __init__(self, unet: UNet) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, tiles: Tensor) -> Tensor:
        """Probability of tiles.

        Args:
            tiles: RGB uint8 ``[T, 3, S, S]``.

        Returns:
            Probability uint8 ``[T, S, S]``, 0..255 for 0..1; it is 0 within
            `export.unet.tiles.EDGE` of the ends.
        """
        inner = _to_bytes(torch.sigmoid(self.unet.forward_inner(tiles, EDGE)))
        return nn.functional.pad(inner, (EDGE, EDGE, EDGE, EDGE))


def _to_bytes(probabilities: Tensor) -> Tensor:
    """The only channel of ``[B, 1, H, W]``, 0..1, rounded to 8 bits."""
    return torch.round(probabilities[:, 0] * 255).to(torch.uint8)
