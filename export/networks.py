"""The trained classifier in the form in which it is served: bytes in, plain tensors out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.classifier import CellClassifier

CLASSIFIER_CHUNK = 32
"""Crops that the classifier takes at once: about 16 MB of activations."""


class ClassifierNetwork(nn.Module):
    """ResNet50 with probabilities in place of logits."""

    def __init__(self, classifier: CellClassifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, crops: Tensor) -> Tensor:
        """Class probabilities float32 ``[N, K]`` of RGB crops uint8 ``[N, 3, S, S]``."""
        return torch.softmax(self.classifier(crops), dim=1)
