"""Lightning module that trains and validates the cell classifier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torchmetrics.classification import MulticlassConfusionMatrix
from torchvision.transforms import v2

from training.resnet.network import CellClassifier
from training.run.lightning import BestEpochTraining


class ClassifierTraining(BestEpochTraining):
    """Training and validation steps; keeps the weights of the best epoch.

    Balanced accuracy, the mean of the classes' recalls, decides which epoch is best. In a blood
    smear nine out of ten cells belong to one class, and accuracy alone would hardly depend on the
    other.
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
    ) -> None:
        super().__init__(epochs=epochs, seed=seed)
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
        """Compute the cross-entropy of one augmented batch."""
        crops = torch.stack([self.augment(crop) for crop in batch[0]])
        loss = torch.nn.functional.cross_entropy(self.classifier(crops), batch[1])
        self.log_step(loss, len(crops))
        return loss

    def validation_step(self, batch: list[torch.Tensor], batch_index: int) -> None:
        """Count the predictions of one batch."""
        logits = self.classifier(batch[0])
        self.log("validation/loss", torch.nn.functional.cross_entropy(logits, batch[1]))
        self.confusion.update(logits, batch[1])

    def on_validation_epoch_end(self) -> None:
        """Keep the weights if balanced accuracy, then loss, is the best so far."""
        metrics = {
            **accuracies(self.confusion.compute()),
            "loss": float(self.trainer.callback_metrics["validation/loss"]),
        }
        self.confusion.reset()
        self.end_epoch(metrics, logged=["loss"])

    def rank(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """Rank an epoch by balanced accuracy, then by loss."""
        return metrics["balanced_accuracy"], -metrics["loss"]

    def weights(self) -> Mapping[str, torch.Tensor]:
        """Return the weights of the classifier."""
        weights: Mapping[str, torch.Tensor] = self.classifier.state_dict()
        return weights

    def configure_optimizers(self) -> dict[str, Any]:
        """Use AdamW with a learning rate that falls by a cosine."""
        optimizer = torch.optim.AdamW(
            self.classifier.parameters(),
            lr=self.learning_rate,
            weight_decay=self.weight_decay,
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs)
        return {"optimizer": optimizer, "lr_scheduler": schedule}


def accuracies(confusion: torch.Tensor) -> dict[str, float]:
    """Compute accuracy and balanced accuracy of a confusion matrix ``[K true, K predicted]``.

    A class without any validation crop has no recall, so the mean is taken over the others.
    """
    right, crops = confusion.diagonal(), confusion.sum(dim=1)
    recalls = (right / crops)[crops > 0]
    return {
        "accuracy": float(right.sum() / crops.sum()),
        "balanced_accuracy": float(recalls.mean()),
    }
