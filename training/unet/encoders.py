"""Encoders of studies S2 and S3: the studies' names, and the smp encoders that they stand for.

segmentation-models-pytorch (smp) 0.6 no longer includes GERNet, RegNet, Res2Net and ResNeSt itself
(`timm-gernet_l`, `timm-regnetx_064`, `timm-res2net50_26w_4s`, `timm-resnest50d`). They remain
available through its universal encoder, which takes the same networks from timm: the `tu-` names
below.
"""

from __future__ import annotations

from dataclasses import dataclass

import segmentation_models_pytorch as smp
import timm
from safetensors import SafetensorError
from torch import nn

from training.checkpoint import CheckpointError


@dataclass(frozen=True)
class Encoder:
    """An encoder by its name in smp, and the name of its ImageNet weights there."""

    smp_name: str
    imagenet: str = "imagenet"

    @property
    def is_universal(self) -> bool:
        """Whether smp takes the encoder from timm, under timm's names of network and weights."""
        return self.smp_name.startswith("tu-")

    @property
    def imagenet_source(self) -> str:
        """Repository of the ImageNet weights on the Hugging Face Hub."""
        if self.is_universal:
            config = timm.models.get_pretrained_cfg(self.smp_name.removeprefix("tu-"))
            return str(config and config.hf_hub_id)
        published = smp.encoders.encoders[self.smp_name]["pretrained_settings"]
        return str(published[self.imagenet]["repo_id"])


ENCODERS = {
    "DenseNet169": Encoder("densenet169"),
    "DPN92": Encoder("dpn92", imagenet="imagenet+5k"),  # no others are published
    "EfficientNet-b5": Encoder("efficientnet-b5"),
    "InceptionV4": Encoder("inceptionv4"),
    "MiT-B3": Encoder("mit_b3"),
    "MobileNetV2": Encoder("mobilenet_v2"),
    "ResNet50": Encoder("resnet50"),
    "ResNeXt50 32x4d": Encoder("resnext50_32x4d"),
    "SE-ResNet50": Encoder("se_resnet50"),
    "SE-ResNeXt50 32x4d": Encoder("se_resnext50_32x4d"),
    "GERNet-L": Encoder("tu-gernet_l"),
    "RegNetX-064": Encoder("tu-regnetx_064"),
    "Res2Net50 26w 4s": Encoder("tu-res2net50_26w_4s"),
    "ResNeSt50d": Encoder("tu-resnest50d"),
    "VGG19": Encoder("vgg19"),
    "Xception": Encoder("xception"),
}
"""The 16 encoders of study S2."""

PLAIN_UNET = "U-Net"
"""U-Net of Ronneberger et al. 2015, as used in study S3, without an encoder from another task."""

NUCLEI_NETWORKS = {PLAIN_UNET: PLAIN_UNET, "U-Net_ResNet50": "ResNet50"}
"""Networks of study S3 -> their names here."""

NETWORKS = (*ENCODERS, PLAIN_UNET)
"""All networks that :func:`training.unet.network.build_unet` can build."""


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
            f"ImageNet weights of {name} are at https://huggingface.co/{encoder.imagenet_source}, "
            f"which cannot be fetched from here ({error}). Bring that repository into the Hugging "
            "Face cache (HF_HOME) from a machine that reaches it, or start from random weights: "
            "--init random."
        ) from error


def _build(encoder: Encoder, weights: str | bool | None) -> nn.Module:
    network: nn.Module = smp.Unet(
        encoder.smp_name, encoder_weights=weights, decoder_interpolation="bilinear"
    )
    return network
