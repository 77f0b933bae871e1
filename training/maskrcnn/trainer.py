"""Training of a Mask R-CNN: its epochs by Lightning, and its score threshold.

The threshold is chosen on whole validation frames, as served.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN

from cytoserve.cells import Cells
from cytoserve.contract import DEFAULT_MAX_CELLS, OVERLAP_THRESHOLD
from training.checkpoint import ChosenThreshold, LearnedScale
from training.datasets.annotated import AnnotatedDataset
from training.evaluation import choose_score_threshold, validation_frames
from training.maskrcnn.frames import Batch
from training.maskrcnn.network import keep_sizes
from training.maskrcnn.settings import MaskrcnnSettings
from training.postprocessing import merge_cells, tile_cuts
from training.preprocessing.cutting import FrameTiles
from training.run.lightning import BestEpochTraining, EpochBatches

VALIDATION_LOSS = "validation/loss"
"""Metric that the learning-rate schedule monitors."""


class MaskrcnnTraining(BestEpochTraining):
    """Training and validation steps; keeps the weights of the epoch with the lowest loss.

    The best epoch has the lowest validation loss. The loss is torchvision's: the sum of those of
    the proposals (objectness, box) and of the heads (class, box, mask).
    """

    def __init__(
        self,
        network: MaskRCNN,
        settings: MaskrcnnSettings,
        *,
        batches: EpochBatches,
        seed: int,
    ) -> None:
        super().__init__(epochs=settings.epochs, minutes=settings.minutes, seed=seed)
        self.network = network
        self.settings = settings
        self.batches = batches
        self.losses: dict[str, list[float]] = defaultdict(list)
        network.roi_heads.fg_bg_sampler.batch_size_per_image = settings.regions_per_frame
        keep_sizes(network)  # the examples are at the network's scale

    def draw_epoch(self, epoch: int) -> None:
        """Draw the random numbers of an epoch, including those of its batches."""
        super().draw_epoch(epoch)
        self.batches.epoch = epoch

    def on_train_batch_start(self, batch: Batch, batch_index: int) -> None:
        """Raise the learning rate step by step during warm-up."""
        if self.global_step < self.settings.warmup_steps:
            share = (self.global_step + 1) / self.settings.warmup_steps
            for group in self.optimizers().param_groups:
                group["lr"] = self.settings.learning_rate * share

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Compute the loss of one batch, see `training.maskrcnn.frames`."""
        images, targets = batch
        losses = self.network(images, targets)
        loss: Tensor = sum(losses.values(), start=torch.zeros((), device=self.device))
        self.log_step(loss, len(images))
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip the gradients, if the settings say so."""
        if self.settings.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.gradient_clip)

    def on_validation_model_eval(self) -> None:
        """Make the network return its losses, which it does in training mode only.

        Batch normalisation is in evaluation mode: it applies the statistics that are served, and
        learns none from the validation frames. Lightning restores all modes afterwards.
        """
        self.network.train()
        for module in self.network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Compute the losses of one batch.

        The anchors and boxes used in the losses are drawn at random. The draw is the same in every
        epoch and does not affect the random numbers used in training.
        """
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(batch_index)
            losses = self.network(*batch)
        for name, loss in losses.items():
            self.losses[name.removeprefix("loss_")].append(float(loss))

    def on_validation_epoch_end(self) -> None:
        """Keep the weights if the loss is the lowest so far.

        Raises:
            ValueError: the loss is NaN or infinite.
        """
        parts = {name: sum(values) / len(values) for name, values in self.losses.items()}
        self.losses.clear()
        metrics = {"loss": sum(parts.values()), **parts}
        if not math.isfinite(metrics["loss"]):
            raise ValueError(
                f"the training diverged: in epoch {self.current_epoch + 1} the validation loss is "
                f"{metrics['loss']}. Lower learning_rate, {self.settings.learning_rate:g}, or give "
                "warmup_steps and gradient_clip."
            )
        self.end_epoch(metrics)

    def rank(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """Rank an epoch by its loss."""
        return (-metrics["loss"],)

    def weights(self) -> Mapping[str, Tensor]:
        """Return the weights of the Mask R-CNN."""
        weights: Mapping[str, Tensor] = self.network.state_dict()
        return weights

    def configure_optimizers(self) -> dict[str, Any]:
        """Use AdamW, with a learning rate that falls when the validation loss stalls."""
        settings = self.settings
        trained = [p for p in self.network.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            trained, lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=settings.plateau_factor, patience=settings.plateau_patience
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "monitor": VALIDATION_LOSS},
        }


LOWEST = 0.05
"""Score threshold at which the network is run to obtain all its cells. Below it, masks of hundreds
of boxes per frame would be predicted."""

BOX_OVERLAP = 0.7
"""IoU above which the lower-scored of two boxes of one class and tile is dropped before merging."""

BLANK_SIDE = 512
"""Side of the empty frames used in validation, in network pixels."""


def maskrcnn_threshold(
    network: MaskRCNN,
    validation: AnnotatedDataset,
    scale: LearnedScale,
    seed: int,
) -> ChosenThreshold:
    """Choose the score threshold of a network, on validation frames and frames of noise.

    Args:
        network: trained network. Its thresholds are changed, and it no longer resizes images.
        validation: frames that were not used in training.
        scale: scale that the network was trained at.
        seed: random seed of the frames of noise.
    """
    keep_sizes(network.eval(), paste=False)
    network.roi_heads.score_thresh = LOWEST
    network.roi_heads.nms_thresh = max(BOX_OVERLAP, OVERLAP_THRESHOLD)
    overlap = scale.largest_cell_px * scale.network_scale

    def found(image: Tensor, common: float) -> Cells:
        arrays = find_cells(network, image, scale.network_scale * common, overlap)
        boxes, scores, ids, probs, masks, count = (tensor.numpy() for tensor in arrays)
        height, width = image.shape[:2]
        names = validation.class_names
        return Cells(boxes, scores, ids, probs, masks, (height, width), names, int(count[0]))

    return choose_score_threshold(validation_frames(validation, found, scale, BLANK_SIDE, seed))


def find_cells(
    network: MaskRCNN, image: Tensor, scale: float, tile_overlap: float
) -> tuple[Tensor, ...]:
    """Find the cells of ``image`` int32 ``[H, W, C]``, tile by tile, as they are served.

    Args:
        network: network in evaluation mode, with its thresholds set and its masks not pasted, see
            :func:`maskrcnn_threshold`.
        image: camera values.
        scale: network pixels per frame pixel.
        tile_overlap: least overlap of neighbouring tiles in network pixels.

    Returns:
        boxes float32 ``[N, 4]`` in frame pixels, scores float32 ``[N]``, class ids int32 ``[N]``,
        class probabilities float32 ``[N, K]``, the score for the class and 0 for the others,
        masks uint8 ``[N, M, M]``, and cells found int32 ``[1]``.
    """
    tiles, origins, tiling, _ = FrameTiles()(
        image, torch.tensor([scale]), torch.tensor([tile_overlap])
    )
    with torch.inference_mode():
        parts = [_found_in(network, tile) for tile in tiles]
    boxes, scores, labels, masks = (torch.cat(values) for values in zip(*parts, strict=True))
    counts = torch.tensor([len(part[0]) for part in parts])
    index = torch.arange(len(parts)).repeat_interleave(counts)
    side = torch.tensor(tiles.shape[:1:-1]).float()
    whole, large_cut = tile_cuts(boxes, index, origins, side, tiling[4])
    boxes = (boxes + origins[index].repeat(1, 2)) / tiling[0:2].repeat(2)
    kept, found = merge_cells(
        boxes,
        masks,
        scores,
        whole,
        large_cut,
        torch.tensor([OVERLAP_THRESHOLD]),
        torch.tensor([DEFAULT_MAX_CELLS], dtype=torch.int32),
    )
    ids = labels[kept] - 1  # torchvision uses 0 for background
    classes = network.roi_heads.box_predictor.cls_score.out_features - 1
    probabilities = torch.nn.functional.one_hot(ids, classes) * scores[kept, None]
    return boxes[kept], scores[kept], ids.to(torch.int32), probabilities, masks[kept], found


def _found_in(network: MaskRCNN, tile: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Find the boxes, scores, labels and mask patches uint8 ``[n, M, M]`` of one tile."""
    [found] = network([tile.float() / 255])
    patches = torch.round(found["masks"][:, 0] * 255).to(torch.uint8)
    return found["boxes"], found["scores"], found["labels"], patches
