"""The U-Nets of studies S2 and S3, for training and export."""

from __future__ import annotations

from pathlib import Path

import segmentation_models_pytorch as smp
import timm
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from training.checkpoint import CheckpointError, Recipe, fill_network, load_checkpoint
from training.preprocessing.normalise import IMAGENET_MEAN, IMAGENET_STD
from training.unet.settings import ENCODERS, NETWORKS, PLAIN_UNET, WIDTH, Encoder

ARCHITECTURE = "unet"

ENCODER_STRIDE = 32

PLAIN_STRIDE = 16


def imagenet_source(encoder: Encoder) -> str:
    """Repository of an encoder's ImageNet weights on the Hugging Face Hub."""
    if encoder.is_universal:
        config = timm.models.get_pretrained_cfg(encoder.smp_name.removeprefix("tu-"))
        return str(config and config.hf_hub_id)
    published = smp.encoders.encoders[encoder.smp_name]["pretrained_settings"]
    return str(published[encoder.imagenet]["repo_id"])


def smp_unet(name: str, *, imagenet: bool) -> nn.Module:
    """Build smp's U-Net with one of ``ENCODERS``: bilinear up-sampling, ReLU, one logit per pixel.

    Args:
        name: the study's name of the encoder.
        imagenet: load ImageNet weights into the encoder; otherwise all weights are random.

    Raises:
        CheckpointError: the ImageNet weights cannot be fetched.
    """
    encoder = ENCODERS[name]
    if not imagenet:
        return _build(encoder, None)
    try:
        return _build(encoder, True if encoder.is_universal else encoder.imagenet)
    except (OSError, RuntimeError, SafetensorError) as error:  # RuntimeError: wrong network
        raise CheckpointError(
            f"ImageNet weights of {name} are at https://huggingface.co/{imagenet_source(encoder)}, "
            f"which cannot be fetched from here ({error}). Bring that repository into the Hugging "
            "Face cache (HF_HOME) from a machine that reaches it, or start from random weights: "
            "--init random."
        ) from error


def _build(encoder: Encoder, weights: str | bool | None) -> nn.Module:
    network: nn.Module = smp.Unet(
        encoder.smp_name, encoder_weights=weights, decoder_interpolation="bilinear"
    )
    return network


class UNet(nn.Module):
    """A segmentation network for images of any size, preceded by ImageNet's pixel statistics.

    An image is padded on the right and at the bottom to the network's stride by repeating its last
    column and row, and the result is cropped. Sizes stay tensors, so that a traced graph accepts
    any size.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Logits float32 ``[B, 1, H, W]`` of RGB images uint8 ``[B, 3, H, W]``, H, W >= 1."""
        shape = torch._shape_as_tensor(images)
        height, width = shape[2], shape[3]
        padded = images.index_select(2, self._padded(height, images.device))
        padded = padded.index_select(3, self._padded(width, images.device))
        logits: Tensor = self.network(self._standardised(padded))
        return logits[:, :, :height, :width].float()

    def forward_inner(self, images: Tensor, edge: int) -> Tensor:
        """Compute the logits of all but the ``edge`` pixels at every side.

        In the decoder, computation that only those pixels need is skipped.

        Args:
            images: RGB uint8 ``[B, 3, H, W]``, H and W multiples of ``stride``.
            edge: width of the edge in pixels, less than half of H and W.

        Returns:
            float32 ``[B, 1, H - 2 * edge, W - 2 * edge]``.
        """
        values = self._standardised(images)
        if isinstance(self.network, PlainUNet):
            logits: Tensor = self.network(values, edge)
        else:
            logits = _smp_inner(self.network, values, edge)
        return logits.float()

    def _standardised(self, images: Tensor) -> Tensor:
        return (images.float() / 255 - self.mean) / self.std

    def _padded(self, length: Tensor, device: torch.device) -> Tensor:
        """Source index of every row (or column) of the padded image."""
        blocks = torch.div(length + self.stride - 1, self.stride, rounding_mode="floor")
        end = blocks * self.stride
        indices = torch.arange(end, device=device)  # type: ignore[call-overload]  # not a number
        return torch.minimum(indices, (length - 1).to(device))


class PlainUNet(nn.Module):
    """The U-Net of Ronneberger et al. 2015: five levels, each of twice the channels.

    As is usual now, its convolutions are padded, so that the result has the size of the image. They
    are batch-normalised, since otherwise study S3's learning rate of 0.1 diverges. The 2x2
    up-convolution is replaced by a 1x1 convolution and bilinear up-sampling. This order gives the
    same result as the reverse with a quarter of the work.
    """

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(5)]
        self.down = nn.ModuleList(
            _two_convolutions(before, after)
            for before, after in zip([3, *widths[:-1]], widths, strict=True)
        )
        deep = list(reversed(widths))
        self.narrow = nn.ModuleList(nn.Conv2d(w, w // 2, kernel_size=1) for w in deep[:-1])
        self.up = nn.ModuleList(_two_convolutions(w, w // 2) for w in deep[:-1])
        self.head = nn.Conv2d(width, 1, kernel_size=1)

    def forward(self, images: Tensor, edge: int = 0) -> Tensor:
        """Compute the logits of all but the ``edge`` pixels at every side.

        Args:
            images: float ``[B, 3, H, W]``, sides multiples of 16.
            edge: width of the edge in pixels; what only the edge needs is not computed in the
                decoder.

        Returns:
            ``[B, 1, H - 2 * edge, W - 2 * edge]``.
        """
        levels = [self.down[0](images)]
        for convolutions in list(self.down)[1:]:
            levels.append(convolutions(nn.functional.max_pool2d(levels[-1], 2)))
        values, edges = levels.pop(), _edges(edge, len(self.up))
        before = 0
        for narrow, convolutions, after in zip(self.narrow, self.up, reversed(edges), strict=True):
            raised = nn.functional.interpolate(narrow(values), scale_factor=2, mode="bilinear")
            both = [_inner(levels.pop(), after), _inner(raised, after - 2 * before)]
            values, before = convolutions(torch.cat(both, dim=1)), after
        logits: Tensor = self.head(_inner(values, edge - before))
        return logits


def _edges(edge: int, levels: int) -> list[int]:
    """Pixels at every side that each level can omit in the decoder, the finest level first.

    Two convolutions reach 2 pixels to every side, bilinear up-sampling one pixel of the coarser
    level.
    """
    edges = []
    for _ in range(levels):
        edges.append(max(edge - 2, 0))
        edge = edges[-1] // 2 - 1
    return edges


def _smp_inner(network: smp.Unet, images: Tensor, edge: int) -> Tensor:
    """Logits ``[B, 1, H - 2 * edge, W - 2 * edge]`` of smp's U-Net, with cropped decoder blocks.

    The head reaches one pixel to every side. A block reaches two, and its bilinear up-sampling
    reaches one pixel of the coarser level. After cropping, up-sampling differs in the outermost
    fine pixel.
    """
    *levels, values = network.encoder(images)[1:]
    cuts, reach = [], edge - 1
    for _ in network.decoder.blocks:
        reach = max((reach - 3) // 2, 0)
        cuts.append(reach)
    values, before = network.decoder.center(values), 0
    for block, cut in zip(network.decoder.blocks, reversed(cuts), strict=True):
        values, before = _inner(values, cut - before), 2 * cut
        skip = _inner(levels.pop(), before) if levels else None
        height, width = (2 * side for side in values.shape[2:])
        values = block(values, height, width, skip)
    rim = min(edge, 1)
    logits: Tensor = network.segmentation_head(_inner(values, edge - rim - before))
    return _inner(logits, rim)


def _inner(values: Tensor, edge: int) -> Tensor:
    """Crop ``edge`` pixels at every side of ``values`` ``[B, C, H, W]``."""
    # Negative padding: one operation in a graph, where slicing takes two.
    return nn.functional.pad(values, (-edge, -edge, -edge, -edge)) if edge else values


def _two_convolutions(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
        nn.Conv2d(after, after, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )


def build_unet(encoder: str, *, width: int = WIDTH, imagenet: bool = False) -> UNet:
    """Build a U-Net, by default with random weights.

    Args:
        encoder: study's name of the network, one of ``NETWORKS``.
        width: channels of the first level of the plain U-Net; encoders have their own.
        imagenet: load ImageNet weights into the encoder.

    Raises:
        ValueError: there is no such encoder.
        CheckpointError: ImageNet weights cannot be fetched, or there are none.
    """
    if encoder not in NETWORKS:
        raise ValueError(f"unknown encoder {encoder!r}; choose one of: {', '.join(NETWORKS)}.")
    if encoder == PLAIN_UNET:
        if imagenet:
            raise CheckpointError(
                f"there are no ImageNet weights of the plain {PLAIN_UNET}; start from random "
                "weights (--init random), or choose an encoder that has them."
            )
        return UNet(PlainUNet(width), PLAIN_STRIDE)
    return UNet(smp_unet(encoder, imagenet=imagenet), ENCODER_STRIDE)


def load_unet(directory: Path) -> tuple[UNet, Recipe]:
    """Load the trained U-Net of a checkpoint folder, in evaluation mode, and its recipe.

    Raises CheckpointError, see `training.checkpoint.load_checkpoint`.
    """
    weights, recipe = load_checkpoint(directory, ARCHITECTURE)
    encoder, width = recipe.settings.get("encoder"), recipe.settings.get("width", WIDTH)
    if encoder not in NETWORKS or not isinstance(width, int) or width < 1:
        raise CheckpointError(
            f"{directory}: the recipe's settings name no U-Net of this version: encoder "
            f"{encoder!r}, width {width!r}. Encoders are {', '.join(NETWORKS)}."
        )
    unet = build_unet(encoder, width=width)
    fill_network(unet, weights, str(directory))
    return unet.eval(), recipe
