"""Training of a U-Net: its losses, its epochs by Lightning, and its probability threshold."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import segmentation_models_pytorch as smp
import torch
from rich.progress import track
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cytoserve.foreground import FULL, foreground_mask
from training.checkpoint import ChosenThreshold
from training.evaluation import THRESHOLDS, choose_threshold
from training.run.lightning import BestEpochTraining, EpochBatches
from training.unet.dice import FOREGROUND_PROBABILITY, dice_score, iou_score
from training.unet.network import UNet
from training.unet.settings import UnetSettings

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Loss ``(logits, targets, weights)`` -> scalar; the arguments are float32 ``[B, 1, H, W]``."""


def dice_loss(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Compute DiceLoss = 1 - DiceScore of the probabilities, over all pixels of the batch.

    Pixel weights are not used. Foreground found in an empty frame lowers the Dice score of its
    batch. A batch without any foreground has the loss 0; the sum with cross-entropy still learns
    from it.
    """
    loss: Tensor = smp.losses.DiceLoss(mode="binary", from_logits=True)(logits, targets)
    return loss


def cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Compute the mean over the pixels of weight times binary cross-entropy."""
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, weights)


def dice_and_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Compute the sum of Dice loss and cross-entropy."""
    return dice_loss(logits, targets, weights) + cross_entropy(logits, targets, weights)


LOSSES: dict[str, Loss] = {
    "dice": dice_loss,
    "cross-entropy": cross_entropy,
    "dice+cross-entropy": dice_and_cross_entropy,
}
"""Losses by their names in the settings."""

VALIDATION_LOSS = "validation/loss"
"""Metric that early stopping and the learning-rate schedule monitor."""

BLANK_FOREGROUND = "blank_foreground"
"""Metric: share of pixels in empty frames that are predicted as foreground, 0..1."""


class UnetTraining(BestEpochTraining):
    """Training and validation steps; keeps the weights of the best epoch.

    The best epoch has the highest mean Dice over the validation images, less the share of
    foreground found in the empty frames. Ties go to the lowest loss. Dice, IoU and loss are
    computed on the images alone, so that they mean the same with and without empty frames.
    """

    def __init__(
        self,
        unet: UNet,
        settings: UnetSettings,
        *,
        batches: EpochBatches,
        validation_batches: int,
        seed: int,
    ) -> None:
        """Set up a training.

        Args:
            unet: network to train.
            settings: settings of the run.
            batches: batches of the training images.
            validation_batches: number of validation batches of images; later ones hold empty
                frames.
            seed: random seed from which every epoch draws.
        """
        super().__init__(epochs=settings.epochs, minutes=settings.minutes, seed=seed)
        # Convolutions with few channels are faster on CPUs in this memory layout.
        self.unet = unet.to(memory_format=torch.channels_last)
        self.average = _moving_average(self.unet, settings.weight_averaging)
        self.settings = settings
        self.loss = LOSSES[settings.loss]
        self.batches = batches
        self.validation_batches = validation_batches
        self.scores: list[tuple[float, float]] = []
        self.blank_shares: list[float] = []

    def draw_epoch(self, epoch: int) -> None:
        """Draw the random numbers of an epoch, including those of its batches."""
        super().draw_epoch(epoch)
        self.batches.epoch = epoch

    def training_step(self, batch: list[Tensor], batch_index: int) -> Tensor:
        """Loss of one batch: images, masks and weights, see `training.unet.frames.Planes`."""
        loss = self.loss(self.unet(batch[0]), batch[1], batch[2])
        self.log_step(loss, len(batch[0]))
        return loss

    def on_train_batch_end(self, outputs: Any, batch: list[Tensor], batch_index: int) -> None:
        """Update the moving average of the weights."""
        if self.average is not None:
            self.average.update_parameters(self.unet)

    @property
    def kept(self) -> UNet:
        """Network that is validated and saved: with averaged weights or the current ones."""
        return self.unet if self.average is None else cast(UNet, self.average.module)

    def validation_step(self, batch: list[Tensor], batch_index: int) -> None:
        """Record loss and scores of a batch of images, or the foreground found in empty frames."""
        logits = self.kept(batch[0])
        predictions = (torch.sigmoid(logits) >= FOREGROUND_PROBABILITY).cpu().numpy()
        if batch_index >= self.validation_batches:
            self.blank_shares += [float(predicted.mean()) for predicted in predictions]
            return
        loss = self.loss(logits, batch[1], batch[2])
        self.log(VALIDATION_LOSS, loss, batch_size=len(batch[0]), sync_dist=True)
        for predicted, truth in zip(predictions, batch[1].cpu().numpy() > 0, strict=True):
            self.scores.append((dice_score(predicted, truth), iou_score(predicted, truth)))

    def on_validation_epoch_end(self) -> None:
        """Keep the weights if Dice, then loss, is the best so far.

        Raises:
            ValueError: the loss is NaN or infinite.
        """
        dice, iou = np.mean(self.scores, axis=0)
        self.scores.clear()
        loss = float(self.trainer.callback_metrics[VALIDATION_LOSS])
        if not math.isfinite(loss):
            raise ValueError(
                f"the training diverged: in epoch {self.current_epoch + 1} the validation loss is "
                f"{loss}. Lower learning_rate, {self.settings.learning_rate:g}."
            )
        metrics = {"dice": float(dice), "iou": float(iou), "loss": loss}
        if self.blank_shares:
            metrics[BLANK_FOREGROUND] = float(np.mean(self.blank_shares))
            self.blank_shares.clear()
        self.end_epoch(metrics, logged=["loss"])

    def rank(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """Rank an epoch by Dice less the foreground in empty frames, then by loss."""
        return metrics["dice"] - metrics.get(BLANK_FOREGROUND, 0.0), -metrics["loss"]

    def weights(self) -> Mapping[str, Tensor]:
        """Return the weights of the U-Net, or their average."""
        weights: Mapping[str, Tensor] = self.kept.state_dict()
        return weights

    def configure_optimizers(self) -> dict[str, Any]:
        """Use Adam or SGD, with a learning rate that is fixed or falls when the loss stalls."""
        settings, parameters = self.settings, self.unet.parameters()
        optimizer = (
            torch.optim.Adam(parameters, lr=settings.learning_rate)
            if settings.optimizer == "Adam"
            else torch.optim.SGD(parameters, lr=settings.learning_rate, momentum=settings.momentum)
        )
        if settings.plateau_patience is None:
            return {"optimizer": optimizer}
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=settings.plateau_factor, patience=settings.plateau_patience
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "monitor": VALIDATION_LOSS},
        }


def _moving_average(unet: UNet, decay: float | None) -> AveragedModel | None:
    """Make the moving average (exponential) of weights and batch-normalisation statistics.

    It is a module of its own, so that Lightning saves it in the state of an interrupted run.
    """
    if decay is None:
        return None
    follow = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(unet, multi_avg_fn=follow, use_buffers=True)


GREY_LEVELS = FULL + 1
"""Number of values that a served probability can have."""


def unet_threshold(
    unet: UNet, batches: Iterable[Sequence[Tensor]], device: torch.device | str = "cpu"
) -> ChosenThreshold | None:
    """Choose the threshold with the highest Dice over the pixels of all images together.

    Empty frames have no true foreground, so any foreground found in them lowers the score. The
    probabilities are rounded to the 256 levels that a server returns, and thresholded by its rule.

    Args:
        unet: trained U-Net.
        batches: images, masks and weights, see `training.unet.frames.Planes`.
        device: device to compute on.

    Returns:
        The threshold; None if no image has any foreground, so that none can be chosen.
    """
    unet = unet.to(device).eval()
    counts = torch.zeros(2 * GREY_LEVELS, dtype=torch.int64)
    for images, masks, _ in track(batches, "choosing the threshold", transient=True):
        with torch.inference_mode():
            levels = torch.round(torch.sigmoid(unet(images.to(device))) * FULL).cpu().int()
        places = levels + GREY_LEVELS * (masks > 0).int()
        counts += torch.bincount(places.flatten(), minlength=2 * GREY_LEVELS)
    background, foreground = counts.numpy().reshape(2, GREY_LEVELS)
    annotated = int(foreground.sum())
    if not annotated:
        return None
    every_level = np.arange(GREY_LEVELS, dtype=np.uint8)
    above = np.stack([foreground_mask(every_level, threshold) for threshold in THRESHOLDS])
    matched = above @ foreground
    return choose_threshold("Dice", matched, matched + above @ background, annotated)
