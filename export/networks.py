"""The trained networks in the form in which they are served: bytes in, plain tensors out."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from training.classifier import CellClassifier
from training.yolo_network import SegmentationModel

CLASSIFIER_CHUNK = 32
"""Crops that the classifier takes at once: about 16 MB of activations."""


class YoloNetwork(nn.Module):
    """YOLO11n-seg with its batch norms fused and its head decoding boxes to network pixels."""

    def __init__(self, network: SegmentationModel) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).eval().fuse(verbose=False)
        head = self.network.model[-1]
        head.export, head.format = True, "onnx"

    def forward(self, network_image: Tensor) -> tuple[Tensor, Tensor]:
        """Predict for RGB images uint8 ``[B, 3, S, S]``.

        Returns ``predictions`` float32 ``[B, 4 + K + 32, A]`` and ``prototypes`` float32
        ``[B, 32, S / 4, S / 4]``, see `export.yolo_decode.YoloDecode`.
        """
        predictions, prototypes = self.network(network_image.float() / 255)
        return predictions, prototypes


class ClassifierNetwork(nn.Module):
    """ResNet50 with probabilities in place of logits."""

    def __init__(self, classifier: CellClassifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, crops: Tensor) -> Tensor:
        """Class probabilities float32 ``[N, K]`` of RGB crops uint8 ``[N, 3, S, S]``."""
        return torch.softmax(self.classifier(crops), dim=1)
