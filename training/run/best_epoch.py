"""What all training loops of this room share: an epoch's random numbers, and the best epoch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import Any

import lightning
import torch
from torch import Tensor

from training.run.progress import EpochProgress


class BestEpochTraining(lightning.LightningModule, ABC):  # type: ignore[misc]  # ships no types
    """One step and one validation in a subclass; here what is logged, drawn and kept of them.

    Every epoch draws random numbers of its own, so that a run that was cut off goes on as if it
    had not been. A subclass ends its steps with :meth:`log_step` and its validations with
    :meth:`end_epoch`.
    """

    def __init__(self, *, seed: int, progress: EpochProgress) -> None:
        super().__init__()
        self.seed = seed
        self.progress = progress
        self.best_weights: dict[str, Tensor] = {}
        """Of the best epoch so far."""
        self.best_metrics: dict[str, float] = {}

    @abstractmethod
    def rank(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """What an epoch is judged by: the larger, the better; of equal ones the later is kept."""

    @abstractmethod
    def weights(self) -> Mapping[str, Tensor]:
        """What a checkpoint needs of the network as it is now."""

    def draw_epoch(self, epoch: int) -> None:
        """Begin the random numbers of an epoch, the first being 0."""
        torch.manual_seed(self.seed + epoch)

    def on_train_start(self) -> None:
        """Show how long the run is."""
        self.progress.begin(self.trainer.num_training_batches, self.current_epoch)

    def on_train_epoch_start(self) -> None:
        """Give every epoch random numbers of its own."""
        self.draw_epoch(self.current_epoch)

    def log_step(self, loss: Tensor, images: int, name: str = "loss") -> None:
        """Log one step's loss, a mean of so many images, and its learning rate."""
        self.log(f"train/{name}", loss, on_step=False, on_epoch=True, batch_size=images)
        rate = self.optimizers().param_groups[0]["lr"]
        self.log("train/learning_rate", rate, on_step=False, on_epoch=True, batch_size=1)
        self.progress.step()

    def end_epoch(self, metrics: dict[str, float], logged: Collection[str] = ()) -> None:
        """Log and print what a validation found; keep the weights when it is the best so far.

        Args:
            metrics: of the epoch, by name.
            logged: those that the validation's steps have logged.
        """
        for name in metrics.keys() - set(logged):
            self.log(f"validation/{name}", metrics[name])
        self.progress.epoch(self.current_epoch + 1, metrics)
        if not self.best_metrics or self.rank(metrics) >= self.rank(self.best_metrics):
            self.best_metrics = metrics
            self.best_weights = {k: v.detach().clone() for k, v in self.weights().items()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let `--resume` know the best epoch so far."""
        checkpoint["best"] = {"weights": self.best_weights, "metrics": self.best_metrics}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the best epoch so far from an interrupted run, and draw the epoch after it."""
        self.draw_epoch(checkpoint["epoch"] + 1)
        self.best_weights = checkpoint["best"]["weights"]
        self.best_metrics = checkpoint["best"]["metrics"]
