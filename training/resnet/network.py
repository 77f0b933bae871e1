"""The cell classifier for training and export: ResNet50 on 8-bit crops."""

from __future__ import annotations

from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from training.checkpoint import Recipe, fill_network, load_checkpoint
from training.preprocessing.normalise import IMAGENET_MEAN, IMAGENET_STD

ARCHITECTURE = "resnet50"


class CellClassifier(nn.Module):
    """torchvision's ResNet50 with K classes, preceded by ImageNet's pixel statistics."""

    mean: Tensor
    std: Tensor

    def __init__(self, class_count: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)
        self.resnet = torchvision.models.resnet50(num_classes=class_count)

    def forward(self, crops: Tensor) -> Tensor:
        """Compute class logits float32 ``[N, K]`` of RGB crops uint8 ``[N, 3, S, S]``."""
        logits: Tensor = self.resnet((crops.float() / 255 - self.mean) / self.std)
        return logits


def load_classifier(checkpoint: Path) -> tuple[CellClassifier, Recipe]:
    """Load the trained classifier of a checkpoint folder, in evaluation mode, and its recipe.

    Raises CheckpointError, see `training.checkpoint.load_checkpoint`.
    """
    weights, recipe = load_checkpoint(checkpoint, ARCHITECTURE)
    classifier = CellClassifier(len(recipe.class_names))
    fill_network(classifier, weights, str(checkpoint))
    return classifier.eval(), recipe
