"""One step, one validation of the cell classifier: what Lightning runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torchmetrics.classification import MulticlassConfusionMatrix
from torchvision.transforms import v2

from training.resnet.network import CellClassifier
from training.run.best_epoch import BestEpochTraining
from training.run.progress import EpochProgress


class ClassifierTraining(BestEpochTraining):
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
        super().__init__(seed=seed, progress=progress)
        self.classifier = classifier
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.augment = v2.Compose(
            [
                v2.RandomHorizontalFlip(),
                v2.RandomVerticalFlip(),
                v2.RandomChoice([v2.RandomRotation((a, a)) for a in (0, 90, 180, 270)]),
            ]
        )
        self.confusion = MulticlassConfusionMatrix(class_count)

    def training_step(self, batch: list[torch.Tensor], batch_index: int) -> torch.Tensor:
        """Cross-entropy of one augmented batch."""
        crops = torch.stack([self.augment(crop) for crop in batch[0]])
        loss = torch.nn.functional.cross_entropy(self.classifier(crops), batch[1])
        self.log_step(loss, len(crops))
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
        self.end_epoch(metrics, logged=["loss"])

    def rank(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """Balanced accuracy, then the loss."""
        return metrics["balanced_accuracy"], -metrics["loss"]

    def weights(self) -> Mapping[str, torch.Tensor]:
        """Those of the classifier."""
        weights: Mapping[str, torch.Tensor] = self.classifier.state_dict()
        return weights

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
