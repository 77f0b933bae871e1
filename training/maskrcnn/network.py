"""Mask R-CNN of study S4: torchvision's ResNet50-FPN v2, built, filled and loaded.

The network is that of He et al. 2017, with the backbone, heads and normalisation of Li et al. 2021
("Benchmarking Detection Transfer Learning with Vision Transformers"), as `maskrcnn_resnet50_fpn_v2`
of torchvision has them. It takes 8-bit RGB images made by `training.preprocessing.normalise`,
divided by 255.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN, MaskRCNN_ResNet50_FPN_V2_Weights
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from training.checkpoint import CheckpointError, Recipe, explain, fill_network, load_checkpoint
from training.maskrcnn.settings import (
    ANCHOR_SIZES,
    CHANNELS_PER_GROUP,
    WIDTH,
    NetworkSettings,
    Normalisation,
)

ARCHITECTURE = "maskrcnn_resnet50_fpn_v2"

COCO_WEIGHTS = MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1

PREDICTORS = ("roi_heads.box_predictor.", "roi_heads.mask_predictor.")
"""Layers whose size depends on the number of classes."""

ASPECT_RATIOS = (0.5, 1.0, 2.0)


class _Backbone(ResNet):  # type: ignore[misc]  # ships no types
    """ResNet50 with all levels but the stem narrowed to ``width / 64`` of its channels."""

    def __init__(self, width: int, norm_layer: Callable[[int], nn.Module]) -> None:
        self.width = width
        super().__init__(Bottleneck, [3, 4, 6, 3], norm_layer=norm_layer)

    def _make_layer(
        self,
        block: type[nn.Module],
        planes: int,
        blocks: int,
        stride: int = 1,
        dilate: bool = False,
    ) -> nn.Sequential:
        narrowed = planes * self.width // WIDTH
        layer: nn.Sequential = super()._make_layer(block, narrowed, blocks, stride, dilate)
        return layer


def build_maskrcnn(
    class_count: int,
    *,
    min_size: int,
    max_size: int,
    proposals: int,
    anchor_sizes: tuple[float, ...] = ANCHOR_SIZES,
    normalisation: Normalisation = "batch",
    width: int = WIDTH,
    coco: bool = False,
) -> MaskRCNN:
    """Build torchvision's ``maskrcnn_resnet50_fpn_v2`` for ``class_count`` classes and background.

    It takes a list of float32 images ``[3, H, W]``, RGB from 0 to 1 of any size, and resizes them
    and applies ImageNet's statistics itself. Class ``i`` of the data has label ``i + 1`` in the
    network; 0 is background.

    Args:
        class_count: K, without background.
        min_size: see :class:`NetworkSettings`, also for the next five arguments.
        max_size: likewise.
        proposals: likewise.
        anchor_sizes: likewise.
        normalisation: likewise.
        width: likewise.
        coco: load torchvision's COCO weights into all layers but the two predictors; otherwise all
            weights are random.

    Raises:
        ValueError: the settings do not form a valid network, or there is no class.
        CheckpointError: the COCO weights cannot be fetched, or do not fit these settings.
    """
    if class_count < 1:
        raise ValueError(
            f"a Mask R-CNN tells one class at least from background; got {class_count}."
        )
    settings = NetworkSettings(
        min_size=min_size,
        max_size=max_size,
        proposals=proposals,
        anchor_sizes=anchor_sizes,
        normalisation=normalisation,
        width=width,
    )
    if coco and (settings.normalisation != "batch" or settings.width != WIDTH):
        raise CheckpointError(
            f"the COCO weights are of a network of width {WIDTH} with batch normalisation; here "
            f"width {settings.width} with {settings.normalisation} normalisation is asked for. "
            "Choose those, or start from random weights: --init random."
        )
    network = _build(class_count, settings)
    if coco:
        fill_all_but_predictors(network, fetch_coco_weights(), str(COCO_WEIGHTS.url))
    return network


def _build(class_count: int, settings: NetworkSettings) -> MaskRCNN:
    norm = nn.BatchNorm2d if settings.normalisation == "batch" else _group_norm
    resnet = _Backbone(settings.width, norm)
    channels = 4 * settings.width
    backbone = BackboneWithFPN(
        resnet,
        return_layers={f"layer{level + 1}": str(level) for level in range(4)},
        in_channels_list=[channels * 2**level for level in range(4)],
        out_channels=channels,
        extra_blocks=LastLevelMaxPool(),
        norm_layer=norm,
    )
    anchors = AnchorGenerator(
        tuple((size,) for size in settings.anchor_sizes),
        (ASPECT_RATIOS,) * len(settings.anchor_sizes),
    )
    return MaskRCNN(
        backbone,
        min_size=settings.min_size,
        max_size=settings.max_size,
        rpn_anchor_generator=anchors,
        rpn_head=RPNHead(channels, len(ASPECT_RATIOS), conv_depth=2),
        rpn_pre_nms_top_n_test=settings.proposals,
        rpn_post_nms_top_n_test=settings.proposals,
        box_head=FastRCNNConvFCHead((channels, 7, 7), [channels] * 4, [4 * channels], norm),
        box_predictor=FastRCNNPredictor(4 * channels, class_count + 1),
        box_detections_per_img=settings.proposals,
        mask_head=MaskRCNNHeads(channels, [channels] * 4, dilation=1, norm_layer=norm),
        mask_predictor=MaskRCNNPredictor(channels, channels, class_count + 1),
    )


def _group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(channels // CHANNELS_PER_GROUP, channels)


def fetch_coco_weights() -> dict[str, Tensor]:
    """Fetch torchvision's COCO weights, once, into torch.hub's folder.

    Raises:
        CheckpointError: the file cannot be fetched or read.
    """
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(COCO_WEIGHTS.url).name
    try:
        # weights_only: a file from an outside source is read without arbitrary pickle.
        weights: dict[str, Tensor] = COCO_WEIGHTS.get_state_dict(
            progress=False, check_hash=True, weights_only=True
        )
    except Exception as error:  # a damaged file raises almost anything
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise CheckpointError(
            f"COCO weights are at {COCO_WEIGHTS.url}, which cannot be fetched or read from here "
            f"({reason}). Put the file at {file} by hand, or start from random weights: "
            "--init random."
        ) from error
    return weights


class SizeKept(GeneralizedRCNNTransform):  # type: ignore[misc]  # ships no types
    """torchvision's transform without resizing: an image's pixels are network pixels.

    Args:
        paste: paste every mask into an array of the image's size, as torchvision does; otherwise
            masks stay as predicted, 28 x 28 in their boxes.
    """

    def __init__(self, whole: GeneralizedRCNNTransform, paste: bool = True) -> None:
        super().__init__(whole.min_size, whole.max_size, whole.image_mean, whole.image_std)
        self.paste = paste

    def resize(
        self, image: Tensor, target: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Return the image and its target unchanged."""
        return image, target

    def postprocess(
        self,
        result: list[dict[str, Tensor]],
        image_shapes: list[tuple[int, int]],
        original_image_sizes: list[tuple[int, int]],
    ) -> list[dict[str, Tensor]]:
        """Return the cells of every image, in its pixels."""
        if not self.paste:
            return result
        pasted: list[dict[str, Tensor]] = super().postprocess(
            result, image_shapes, original_image_sizes
        )
        return pasted


def keep_sizes(network: MaskRCNN, paste: bool = True) -> None:
    """Make ``network`` accept images already at its scale, and answer in their pixels."""
    network.transform = SizeKept(network.transform, paste).train(network.training)


def fill_all_but_predictors(network: MaskRCNN, weights: dict[str, Tensor], origin: str) -> None:
    """Load ``weights`` into all but the two predictors, which depend on the classes.

    Raises:
        CheckpointError: any other tensor is missing, left over or of a different shape.
    """
    kept = {name: t for name, t in weights.items() if not name.startswith(PREDICTORS)}
    own = {name: t for name, t in network.state_dict().items() if name.startswith(PREDICTORS)}
    fill_network(network, {**kept, **own}, origin)


def read_network_settings(recipe: Recipe, origin: Path) -> NetworkSettings:
    """Read from the recipe which settings a trained network was built from.

    Raises:
        CheckpointError: the recipe does not describe a network of this version.
    """
    told = {n: v for n, v in recipe.settings.items() if n in NetworkSettings.model_fields}
    absent = [n for n in ("min_size", "max_size", "proposals") if n not in told]
    try:
        if absent:
            raise CheckpointError(
                f"{origin}: the recipe's settings lack {', '.join(absent)}; train again."
            )
        return NetworkSettings.model_validate(told)
    except ValidationError as error:
        raise CheckpointError(
            f"{origin}: the recipe's settings make no Mask R-CNN of this version:{explain(error)}"
        ) from error


def load_maskrcnn(directory: Path) -> tuple[MaskRCNN, Recipe]:
    """Load the trained network of a checkpoint folder, in evaluation mode, and its recipe.

    Raises CheckpointError, see `training.checkpoint.load_checkpoint`.
    """
    weights, recipe = load_checkpoint(directory, ARCHITECTURE)
    settings = read_network_settings(recipe, directory)
    if not recipe.class_names:
        raise CheckpointError(f"{directory}: the recipe names no class; train again.")
    network = build_maskrcnn(len(recipe.class_names), **dict(settings))
    fill_network(network, weights, str(directory))
    return network.eval(), recipe
