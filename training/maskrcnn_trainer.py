"""One step, one validation of a Mask R-CNN: what Lightning runs."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from training.maskrcnn_frames import Batch
from training.maskrcnn_settings import MaskrcnnSettings
from training.progress import EpochProgress
from training.unet_frames import EpochBatches

VALIDATION_LOSS = "validation/loss"
"""What the learning rate looks at."""


class MaskrcnnTraining(lightning.LightningModule):  # type: ignore[misc]  # ships no types
    """One step, one validation, and the weights of the epoch with the lowest validation loss.

    The loss is torchvision's: the sum of those of the proposals (objectness, box) and of the heads
    (class, box, mask).
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
        super().__init__()
        self.network = network
        self.settings = settings
        self.batches = batches
        self.seed = seed
        self.progress = progress
        self.losses: dict[str, list[float]] = defaultdict(list)
        self.best_weights: dict[str, Tensor] = {}
        self.best_metrics: dict[str, float] = {}
        network.roi_heads.fg_bg_sampler.batch_size_per_image = settings.regions_per_frame
        if settings.window is not None:
            # A window is scaled as its frame would be, not to the frame's size.
            whole = network.transform
            network.transform = GeneralizedRCNNTransform(
                settings.window, settings.window, whole.image_mean, whole.image_std
            )

    def on_train_start(self) -> None:
        """Show how long the run is."""
        self.progress.begin(self.trainer.num_training_batches, self.current_epoch)

    def on_train_epoch_start(self) -> None:
        """Give every epoch random numbers of its own."""
        self._draw_epoch(self.current_epoch)

    def on_train_batch_start(self, batch: Batch, batch_index: int) -> None:
        """Raise the learning rate step by step at the start of the run."""
        if self.global_step < self.settings.warmup_steps:
            share = (self.global_step + 1) / self.settings.warmup_steps
            for group in self.optimizers().param_groups:
                group["lr"] = self.settings.learning_rate * share

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Loss of one batch, see `training.maskrcnn_frames`."""
        images, targets = batch
        losses = self.network(images, targets)
        loss: Tensor = sum(losses.values(), start=torch.zeros((), device=self.device))
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(images))
        rate = self.optimizers().param_groups[0]["lr"]
        self.log("train/learning_rate", rate, on_step=False, on_epoch=True, batch_size=1)
        self.progress.step()
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Bound the gradients, if the settings say so."""
        if self.settings.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.gradient_clip)

    def on_validation_model_eval(self) -> None:
        """Let the network tell its losses, which it does in training mode only.

        Batch normalisation is in evaluation mode: it applies the statistics that are served, and
        learns none from the frames kept for validation. Lightning restores all modes afterwards.
        """
        self.network.train()
        for module in self.network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Losses of one batch.

        The anchors and boxes that the losses look at are drawn at random: the same in every
        epoch, and without a change of the random numbers that are trained with.
        """
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(batch_index)
            losses = self.network(*batch)
        for name, loss in losses.items():
            self.losses[name.removeprefix("loss_")].append(float(loss))

    def on_validation_epoch_end(self) -> None:
        """Keep the weights when the loss is the lowest so far.

        Raises:
            ValueError: the loss is no longer a number.
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
        for name, value in metrics.items():
            self.log(f"validation/{name}", value)
        self.progress.epoch(self.current_epoch + 1, metrics)
        if not self.best_metrics or metrics["loss"] <= self.best_metrics["loss"]:
            self.best_metrics = metrics
            self.best_weights = {k: v.clone() for k, v in self.network.state_dict().items()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let `--resume` know the best epoch so far."""
        checkpoint["best"] = {"weights": self.best_weights, "metrics": self.best_metrics}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the best epoch so far from an interrupted run, and draw the epoch after it."""
        self._draw_epoch(checkpoint["epoch"] + 1)
        self.best_weights = checkpoint["best"]["weights"]
        self.best_metrics = checkpoint["best"]["metrics"]

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW, at a learning rate that falls when the validation loss stalls."""
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

    def _draw_epoch(self, epoch: int) -> None:
        torch.manual_seed(self.seed + epoch)
        self.batches.epoch = epoch
