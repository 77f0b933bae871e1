"""Lightning module that trains and validates a Mask R-CNN."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN

from training.maskrcnn.frames import Batch
from training.maskrcnn.network import keep_sizes
from training.maskrcnn.settings import MaskrcnnSettings
from training.run.lightning import BestEpochTraining, EpochBatches
from training.run.progress import EpochProgress

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
        progress: EpochProgress,
    ) -> None:
        super().__init__(seed=seed, progress=progress)
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
