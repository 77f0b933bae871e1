"""The training loop of the cell classifier, by Lightning."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassConfusionMatrix
from torchvision.transforms import v2

from training.classifier import CellClassifier
from training.progress import EpochProgress
from training.run_folder import RunFolder


class ClassifierTraining(lightning.LightningModule):  # type: ignore[misc]  # ships no types
    """One step, one validation, and the weights of the best epoch.

    Balanced accuracy, the mean of the classes' recalls, decides which epoch is best: in a blood
    smear nine of ten cells are of one class, and accuracy alone would not notice the other.
    """

    def __init__(
        self,
        classifier: CellClassifier,
        class_count: int,
        *,
        epochs: int,
        learning_rate: float,
        weight_decay: float,
        seed: int,
        progress: EpochProgress,
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.seed = seed
        self.progress = progress
        self.augment = v2.Compose(
            [
                v2.RandomHorizontalFlip(),
                v2.RandomVerticalFlip(),
                v2.RandomChoice([v2.RandomRotation((a, a)) for a in (0, 90, 180, 270)]),
            ]
        )
        self.confusion = MulticlassConfusionMatrix(class_count)
        self.best_weights: dict[str, torch.Tensor] = {}
        self.best_metrics: dict[str, float] = {}

    def on_train_start(self) -> None:
        """Show how long the run is."""
        self.progress.begin(self.trainer.num_training_batches, self.current_epoch)

    def on_train_epoch_start(self) -> None:
        """Give every epoch random numbers of its own."""
        torch.manual_seed(self.seed + self.current_epoch)

    def training_step(self, batch: list[torch.Tensor], batch_index: int) -> torch.Tensor:
        """Cross-entropy of one augmented batch."""
        crops = torch.stack([self.augment(crop) for crop in batch[0]])
        loss = torch.nn.functional.cross_entropy(self.classifier(crops), batch[1])
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        rate = self.optimizers().param_groups[0]["lr"]
        self.log("train/learning_rate", rate, on_step=False, on_epoch=True)
        self.progress.step()
        return loss

    def validation_step(self, batch: list[torch.Tensor], batch_index: int) -> None:
        """Count one batch."""
        logits = self.classifier(batch[0])
        self.log("validation/loss", torch.nn.functional.cross_entropy(logits, batch[1]))
        self.confusion.update(logits, batch[1])

    def on_validation_epoch_end(self) -> None:
        """Keep the weights when balanced accuracy, then loss, is the best so far."""
        metrics = {
            **accuracies(self.confusion.compute()),
            "loss": float(self.trainer.callback_metrics["validation/loss"]),
        }
        self.confusion.reset()
        for name in ("accuracy", "balanced_accuracy"):
            self.log(f"validation/{name}", metrics[name])
        self.progress.epoch(self.current_epoch + 1, metrics)
        if not self.best_metrics or _rank(metrics) >= _rank(self.best_metrics):
            self.best_metrics = metrics
            self.best_weights = {k: v.clone() for k, v in self.classifier.state_dict().items()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let `--resume` know the best epoch so far."""
        checkpoint["best"] = {"weights": self.best_weights, "metrics": self.best_metrics}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the best epoch so far from an interrupted run, and draw other crops than it did."""
        torch.manual_seed(self.seed + checkpoint["epoch"] + 1)
        self.best_weights = checkpoint["best"]["weights"]
        self.best_metrics = checkpoint["best"]["metrics"]

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW on a cosine."""
        optimizer = torch.optim.AdamW(
            self.classifier.parameters(),
            lr=self.learning_rate,
            weight_decay=self.weight_decay,
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs)
        return {"optimizer": optimizer, "lr_scheduler": schedule}


def accuracies(confusion: torch.Tensor) -> dict[str, float]:
    """Accuracy and balanced accuracy of a confusion matrix ``[K true, K predicted]``.

    A class without any crop to validate has no recall; the others' mean is taken.
    """
    right, crops = confusion.diagonal(), confusion.sum(dim=1)
    recalls = (right / crops)[crops > 0]
    return {
        "accuracy": float(right.sum() / crops.sum()),
        "balanced_accuracy": float(recalls.mean()),
    }


def _rank(metrics: dict[str, float]) -> tuple[float, float]:
    return metrics["balanced_accuracy"], -metrics["loss"]


def fit(
    training: ClassifierTraining,
    loaders: tuple[DataLoader[Any], ...],
    folder: RunFolder,
    *,
    bf16: bool,
    resume: bool,
) -> None:
    """Train all epochs, or those that an interrupted run left.

    Raises KeyboardInterrupt on Ctrl-C, as any other code does.
    """
    state = folder.state
    with _lightning_kept_quiet():
        trainer = lightning.Trainer(
            max_epochs=training.epochs,
            precision="bf16-mixed" if bf16 else "32-true",
            logger=TensorBoardLogger(folder.out, name="", version=folder.log.name),
            callbacks=[
                ModelCheckpoint(
                    state.parent,
                    state.stem,
                    save_on_train_epoch_end=True,
                    enable_version_counter=False,
                )
            ],
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_model_summary=False,
            log_every_n_steps=1,
        )
        try:
            # weights_only: the state of an interrupted run is read without arbitrary pickle.
            trainer.fit(training, *loaders, ckpt_path=state if resume else None, weights_only=True)
        except SystemExit as error:  # Lightning's answer to Ctrl-C
            raise KeyboardInterrupt from error


@contextmanager
def _lightning_kept_quiet() -> Iterator[None]:
    """Leave out Lightning's tips, and warnings about what is meant to be as it is."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # The crops lie in memory: workers would only copy them.
            warnings.filterwarnings("ignore", ".*does not have many workers")
            # It holds the facts of the run, and the state to resume.
            warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
            # Lightning's own use of a class that torch will drop.
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated")
            yield
    finally:
        logger.setLevel(level)
