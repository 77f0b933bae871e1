"""The progress of a run, epoch by epoch, and the weights of its best epoch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from types import TracebackType
from typing import Any

import lightning
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor


class EpochProgress:
    """Progress of one run of ``epochs`` epochs, on stderr; a context manager."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task("steps", total=None)

    def __enter__(self) -> EpochProgress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def begin(self, steps_per_epoch: int, epochs_done: int) -> None:
        """Set the length of the run, and the position of a resumed one."""
        self._bar.update(
            self._task,
            total=self.epochs * steps_per_epoch,
            completed=epochs_done * steps_per_epoch,
        )

    def step(self) -> None:
        """Count one step."""
        self._bar.advance(self._task)

    def epoch(self, number: int, figures: Mapping[str, float]) -> None:
        """Print the figures of a complete epoch; ``number`` counts from 1."""
        shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        self._bar.console.print(f"epoch {number}/{self.epochs}  {shown}", highlight=False)


class BestEpochTraining(lightning.LightningModule, ABC):  # type: ignore[misc]  # ships no types
    """Base class: a subclass defines the steps; this class logs, draws and keeps the best weights.

    Every epoch draws its own random numbers, so that a resumed run continues as if it had not been
    interrupted. A subclass ends its steps with :meth:`log_step` and its validations with
    :meth:`end_epoch`.
    """

    def __init__(self, *, seed: int, progress: EpochProgress) -> None:
        super().__init__()
        self.seed = seed
        self.progress = progress
        self.best_weights: dict[str, Tensor] = {}
        """Weights of the best epoch so far."""
        self.best_metrics: dict[str, float] = {}

    @abstractmethod
    def rank(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """Rank an epoch: the larger, the better. Of equal epochs the later one is kept."""

    @abstractmethod
    def weights(self) -> Mapping[str, Tensor]:
        """Return the current weights that a checkpoint needs."""

    def draw_epoch(self, epoch: int) -> None:
        """Start the random numbers of an epoch; the first epoch is 0."""
        torch.manual_seed(self.seed + epoch)

    def on_train_start(self) -> None:
        """Show the length of the run."""
        self.progress.begin(self.trainer.num_training_batches, self.current_epoch)

    def on_train_epoch_start(self) -> None:
        """Give every epoch its own random numbers."""
        self.draw_epoch(self.current_epoch)

    def log_step(self, loss: Tensor, images: int, name: str = "loss") -> None:
        """Log one step's loss, which is a mean over ``images``, and its learning rate."""
        self.log(f"train/{name}", loss, on_step=False, on_epoch=True, batch_size=images)
        rate = self.optimizers().param_groups[0]["lr"]
        self.log("train/learning_rate", rate, on_step=False, on_epoch=True, batch_size=1)
        self.progress.step()

    def end_epoch(self, metrics: dict[str, float], logged: Collection[str] = ()) -> None:
        """Log and print the validation metrics; keep the weights if they are the best so far.

        Args:
            metrics: metrics of the epoch, by name.
            logged: names of metrics that the validation steps have already logged.
        """
        for name in metrics.keys() - set(logged):
            self.log(f"validation/{name}", metrics[name])
        self.progress.epoch(self.current_epoch + 1, metrics)
        if not self.best_metrics or self.rank(metrics) >= self.rank(self.best_metrics):
            self.best_metrics = metrics
            self.best_weights = {k: v.detach().clone() for k, v in self.weights().items()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the best epoch so far for `--resume`."""
        checkpoint["best"] = {"weights": self.best_weights, "metrics": self.best_metrics}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the best epoch of an interrupted run, and draw the epoch to resume with."""
        self.draw_epoch(checkpoint["epoch"] + 1)
        self.best_weights = checkpoint["best"]["weights"]
        self.best_metrics = checkpoint["best"]["metrics"]
