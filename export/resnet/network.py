"""The graphs of `resnet50_cells` and `cell_classes`: the classifier as it is served."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.resnet.network import CellClassifier

CLASSIFIER_CHUNK = 32
"""Number of crops that the classifier takes at once: about 16 MB of activations."""


class ClassifierNetwork(nn.Module):
    """ResNet50 with probabilities in place of logits."""

    def __init__(self, classifier: CellClassifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, crops: Tensor) -> Tensor:
        """Class probabilities float32 ``[N, K]`` of RGB crops uint8 ``[N, 3, S, S]``."""
        return torch.softmax(self.classifier(crops), dim=1)


class CellClasses(nn.Module):
    """Choose one class per cell; remove the row that `cell_crops` adds where there is no cell."""

    def forward(self, crop_probs: Tensor, cell_boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Join ``crop_probs`` float32 ``[max(N, 1), K]`` to ``cell_boxes`` float32 ``[N, 4]``.

        Returns ``class_ids`` int32 ``[N]`` and ``class_probs`` float32 ``[N, K]``.
        """
        probabilities = crop_probs[: torch._shape_as_tensor(cell_boxes)[0]]
        return probabilities.argmax(dim=1).to(torch.int32), probabilities
